"""A recurrent network that learns to write, letter by letter, from one poem.

It reads the text in pieces, and hands its memory from one piece to the next.
"""

import twofold as tw
import twofold.nn.functional as F
from twofold import nn

TEXT = """\
'Twas brillig, and the slithy toves
Did gyre and gimble in the wabe;
All mimsy were the borogoves,
And the mome raths outgrabe.

Beware the Jabberwock, my son!
The jaws that bite, the claws that catch!
Beware the Jubjub bird, and shun
The frumious Bandersnatch!

He took his vorpal sword in hand:
Long time the manxome foe he sought--
So rested he by the Tumtum tree,
And stood awhile in thought.

And as in uffish thought he stood,
The Jabberwock, with eyes of flame,
Came whiffling through the tulgey wood,
And burbled as it came!
"""  # Lewis Carroll, 1871

LETTERS = sorted(set(TEXT))
NUMBER = {letter: i for i, letter in enumerate(LETTERS)}


class Writer(nn.Module):
    """Letters in, scores of the next letters out, and the memory (hidden state) at the end."""

    def __init__(self, hidden):
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), 16)
        self.rnn = nn.GRU(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(LETTERS))

    def forward(self, letters, memory=None):  # (N, L) -> (N, L, letters)
        x, memory = self.rnn(self.embedding(letters), memory)
        return self.head(x), memory


def rows_of(text, rows):
    """The text as `rows` long strips, read side by side: an int64 tensor (rows, length)."""
    numbers = tw.tensor([NUMBER[c] for c in text])
    length = len(text) // rows
    return numbers[: rows * length].view(rows, length)


def train_one_epoch(model, optimizer, strips, piece):
    """One pass over the strips, `piece` letters at a time; returns the mean loss per letter."""
    memory, losses = None, []
    for start in range(0, strips.size(1) - 1, piece):
        letters = strips[:, start : start + piece + 1]
        inputs, targets = letters[:, :-1], letters[:, 1:]  # the target is always the next letter
        optimizer.zero_grad()
        scores, memory = model(inputs, memory)
        loss = F.cross_entropy(scores.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # recurrent gradients may explode
        optimizer.step()
        memory = memory.detach()  # remember the content, not how it was computed
        losses.append(loss.item())
    return sum(losses) / len(losses)


@tw.no_grad()
def write(model, start, length, temperature=0.5):
    """Continue `start` by drawing one letter after the other."""
    text, memory = start, None
    letters = tw.tensor([[NUMBER[c] for c in start]])
    for _ in range(length):
        scores, memory = model(letters, memory)
        chances = F.softmax(scores[0, -1] / temperature, dim=0)
        letters = tw.multinomial(chances, 1).view(1, 1)
        text += LETTERS[letters.item()]
    return text


def main(epochs=60, hidden=96):
    tw.manual_seed(0)
    model = Writer(hidden)
    optimizer = tw.optim.Adam(model.parameters(), lr=0.01)
    strips = rows_of(TEXT, rows=4)
    losses = []
    for epoch in range(epochs):
        losses.append(train_one_epoch(model, optimizer, strips, piece=24))
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}: loss per letter {losses[-1]:.3f}")
    print(write(model, "And ", 120))
    return losses


if __name__ == "__main__":
    main()
