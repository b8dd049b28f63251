# A softmax regression whose loop forgets to zero the gradients: it runs, learns badly, and says nothing in
# most libraries. The test runs this file as it stands; it must not be "corrected".
import twofold as torch
from twofold.data import DataLoader
from twofold.vision.datasets import MNIST
from twofold.vision.transforms import Compose, Normalize, ToTensor


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(28 * 28, 10)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        return self.linear(x)


torch.manual_seed(0)
transform = Compose([ToTensor(), Normalize((0.1307,), (0.3081,))])
loader = DataLoader(MNIST("data", train=True, transform=transform, download=True), batch_size=16, shuffle=True)
net = Net()
loss_fn = torch.nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

losses = []
for epoch in range(2):  # noqa: B007
    for x, y in loader:
        loss = loss_fn(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
