"""Small data sets that train models nearly as well as the big one."""
