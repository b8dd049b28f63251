# What somebody types who knows the names of PyTorch and makes its classic mistakes. The test runs this
# file as it stands, then with one bug less at a time; it must not be "corrected".
import twofold as torch
import twofold.nn as nn
import twofold.nn.functional as F
import twofold.optim as optim
from twofold.data import DataLoader
from twofold.vision import datasets, transforms


class CNN(nn.Module):
    def __init__(self):
        super(CNN, self).__init__()  # noqa: UP008
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 6 * 6, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 2))
        x = x.view(-1, 64 * 6 * 6)
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        return x


model = CNN()
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.9)

train_data = datasets.MNIST("./data", train=True, transform=transforms.ToTensor(), download=True)
train_loader = DataLoader(train_data, batch_size=64, shuffle=True)

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model.to(device)

losses = []
for epoch in range(2):
    running_loss = 0.0
    for images, labels in train_loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        losses.append(loss.item())
    print("epoch %d: loss %.3f" % (epoch + 1, running_loss / len(train_loader)))  # noqa: UP031

correct, total = 0, 0
model.eval()
with torch.no_grad():
    for images, labels in DataLoader(datasets.MNIST("./data", train=False, transform=transforms.ToTensor())):
        _, predicted = torch.max(model(images).data, 1)
        total += labels.size(0)
        correct += (predicted == labels).sum().item()
print("accuracy: %d %%" % (100 * correct / total))  # noqa: UP031
