"""Train a torch model on a set of ten examples per class, and test it on real data that no method has seen."""

import torch
from torch import nn

import datadistill
from datadistill import data

STEPS = 200

small = datadistill.distill("digits", method="k-means", ipc=10, seed=0).to_torch()
test = data.load("digits", seed=0).test  # the split that the set was not made from

net = nn.Sequential(small.normalise, nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(STEPS):
    loss = nn.functional.cross_entropy(net(small.x), small.y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.inference_mode():
    pixels = test.modality.decode(test.stored)  # in [0, 1], as a loader of your own would give them
    accuracy = (net(pixels).argmax(1) == test.labels).double().mean()
print(f"{len(small)} examples, {len(test)} test examples, accuracy {accuracy:.3f}")
