"""The forward of a class, read from its text: never run, and written in the forward language."""

import textwrap

import pytest

from service.engine.sources import Instance, translate
from service.schemas.forward import from_lines

LAYERS = {"conv1": "Conv2d", "conv2": "Conv2d", "fc1": "Linear", "fc2": "Linear", "drop": "Dropout",
          "pool": "MaxPool2d", "lstm": "LSTM", "blocks": "ModuleList"}  # fmt: skip


def translated(body: str, *, inputs: str = "x", layers: dict[str, str] | None = None, **members):
    source = f"class Net(nn.Module):\n    def forward(self, {inputs}):\n" + textwrap.indent(
        textwrap.dedent(body), " " * 8
    )
    return translate(source, Instance(LAYERS if layers is None else layers, **members))


def lines(body: str, **members) -> list[str]:
    translation = translated(body, **members)
    assert translation.problems == ()
    program = from_lines(translation.lines, translation.inputs, tuple(LAYERS), frozenset(members.get("tensors", ())))
    assert [fault for fault in program.faults if fault.code not in ("unused-layer", "unused-value")] == []
    return list(translation.lines)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("x = F.relu(self.fc1(x))\nreturn self.fc2(x)", ["x = relu(fc1(x))", "return fc2(x)"]),
        ("return torch.sigmoid(self.fc1(x.view(x.size(0), -1)))", ["return sigmoid(fc1(flatten(x)))"]),
        ("x = self.pool(F.relu(self.conv1(x)))\nx = x.view(-1, 16 * 5 * 5)\nreturn self.fc1(x)",
         ["x = pool(relu(conv1(x)))", "x = reshape(x, 400)", "return fc1(x)"]),
        ("x = torch.flatten(x, 1)\nreturn self.fc1(x)", ["x = flatten(x, 1)", "return fc1(x)"]),
        ("identity = x\nx = self.fc1(x)\nx = self.fc2(x)\nx += identity\nreturn x",
         ["x_2 = fc1(x)", "x_2 = fc2(x_2)", "x_2 = x_2 + x", "return x_2"]),
        ("out, _ = self.lstm(x)\nreturn self.fc1(out[:, -1, :])", ["out, _ = lstm(x)", "return fc1(out[:, -1])"]),
        ("h0 = torch.zeros(2, x.size(0), 8).to(x.device)\nout, (h, c) = self.lstm(x, (h0, h0))\nreturn self.fc1(h[-1])",
         ["out, (h, c) = lstm(x)", "return fc1(h[-1])"]),
        ("e = self.fc1(x)\np = nn.utils.rnn.pack_padded_sequence(e, n.cpu(), batch_first=True, enforce_sorted=False)\n"
         "o, (h, c) = self.lstm(p)\no, _ = pad_packed_sequence(o, batch_first=True)\nreturn self.fc2(o[:, 0])",
         ["e = fc1(x)", "o, (h, c) = lstm(e, lengths=n)", "return fc2(o[:, 0])"]),
        ("x = F.dropout(x, p=0.3, training=self.training)\nreturn self.fc1(x)",
         ["x = dropout(x, p=0.3)", "return fc1(x)"]),
        ("x = F.max_pool2d(self.conv1(x), (2, 2))\nreturn x.mean([2, 3])",
         ["x = max_pool2d(conv1(x), (2, 2))", "return mean(x, (2, 3))"]),
        ("a, b = self.fc1(x), self.fc2(x)\nreturn torch.cat([a, b], 1)",
         ["a = fc1(x)", "b = fc2(x)", "return cat(a, b, dim=1)"]),
        ("for block in self.blocks:\n    x = block(x)\nreturn x", ["x = blocks(x)", "return x"]),
        ("for i in range(2):\n    x = self.fc1(x)\nreturn x", ["x = fc1(x)", "x = fc1(x)", "return x"]),
        ("if self.down is not None:\n    x = self.fc1(x)\nreturn self.fc2(x)", ["return fc2(x)"]),
        ("b, c, h, w = x.size()\nx = x.view(b, c * h, w)\nreturn x", None),
        ("batch = x.shape[0]\nreturn x.reshape(batch, 2, self.width // 2) * 0.5",
         ["return reshape(x, 2, 4) * 0.5"]),
        ("return (self.fc1(x) - 1) * -self.scale", ["return (fc1(x) - 1) * (-scale)"]),
        ("print(x.shape)\nassert x.ndim == 2\nreturn x.transpose(1, 2).contiguous()", ["return transpose(x, 1, 2)"]),
        ("return self.fc1(x) ** 2", ["return pow(fc1(x), 2)"]),
        ("return F.log_softmax(self.fc1(x), dim=1)", ["return log_softmax(fc1(x), dim=1)"]),
    ],
)  # fmt: skip
def test_what_people_write_is_read(body, wanted):
    constants = {"down": None, "width": 8}
    if "n.cpu()" in body:
        assert list(translated(body, inputs="x, n").lines) == wanted
        return
    if wanted is None:
        assert translated(body, constants=constants).problems
        return
    assert translated(body, constants=constants, tensors=frozenset({"scale"})).problems == ()
    assert list(translated(body, constants=constants, tensors=frozenset({"scale"})).lines) == wanted


def test_methods_of_the_class_are_written_in_place():
    source = """
    class Net(nn.Module):
        def _features(self, x, extra=None):
            y = self.conv1(x)
            if extra is None:
                x = F.relu(y)
            return x

        def forward(self, x):
            y = x
            z = self._features(x)
            return y + z
    """
    translation = translate(textwrap.dedent(source), Instance(LAYERS))
    assert translation.problems == ()
    assert translation.lines == ("y_2 = conv1(x)", "x_2 = relu(y_2)", "return x + x_2") or translation.lines[
        -1
    ].startswith("return x + ")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("return __import__('os').system('true')", "__import__"),
        ("return eval('x')", "eval"),
        ("import os\nreturn x", "import os"),
        ("if x.sum(1) > 0:\n    return x\nreturn -x", "depends on the data"),
        ("while True:\n    x = x", "while"),
        ("return F.dropout(x)", "while predicting"),
        ("return self.unknown(x)", "unknown"),
        ("return x.view(10, -1)", "fold the batch"),
        ("return [f(x) for f in self.blocks][0]", "for f in"),
        ("return lambda: x", "lambda"),
        ("return x.mean()", "mixes the rows"),
        ("return self.forward(x)", "calls itself"),
        ("pass", "returns nothing"),
        ("x.data = x\nreturn x", "x.data"),
        ("return self.blocks[0](x)", "by itself"),
        ("if self.training:\n    return x\nreturn -x", "self.training"),
        ("return x.to('cpu').backward()", "backward"),
    ],
)
def test_what_the_language_cannot_say_is_told_with_its_line(body, word):
    (problem,) = translated(body).problems
    assert word in problem


@pytest.mark.parametrize(
    "source", ["", "def forward(", "x = 1", "class A: pass", "\x00", "(" * 5000, "def f(self): return 1"]
)
def test_what_is_no_class_is_refused(source):
    assert translate(source, Instance(LAYERS)).problems


def test_a_deep_expression_is_refused_and_not_followed():
    body = "return " + "-" * 3000 + "x"
    assert translated(body).problems


@pytest.mark.parametrize("body", ["n = int(1e999)\nreturn x", "n = int(1, 2)\nreturn self.fc1(x)", "return x * 1e999"])
def test_odd_numbers_are_no_fault(body):
    assert translated(body) is not None


def test_loops_that_multiply_are_stopped():
    body = (
        "".join(f"{' ' * 4 * depth}for a{depth} in range(64):\n" for depth in range(7)) + " " * 28 + "n = 1\nreturn x"
    )
    (problem,) = translated(body).problems
    assert "multiply" in problem


def test_the_statements_alone_and_a_bare_def_are_read():
    bare = "def forward(self, x):\n    return self.fc1(x)"
    assert translate(bare, Instance(LAYERS)).lines == ("return fc1(x)",)
