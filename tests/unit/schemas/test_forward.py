"""The forward language: what lines mean, what they are compiled to, and how every mistake in them is told."""

import ast
import json
import time
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.schemas.forward import MAX_LINE_LENGTH, Program, from_lines, from_steps
from service.schemas.steps import OPERATIONS, Step

LAYERS = ("hidden", "predict")


def program(*lines: str, inputs: tuple[str, ...] = ("x",), layers: tuple[str, ...] = LAYERS) -> Program:
    return from_lines(lines, inputs, layers)


def steps(*lines: str, **context: Any) -> list[dict[str, Any]]:
    compiled = program(*lines, **context)
    assert compiled.faults == ()
    return [step.model_dump(mode="json", exclude_defaults=True) for step in compiled.steps]


def faults(*lines: str, **context: Any) -> list[tuple[int | None, str]]:
    return [(fault.line, fault.code) for fault in program(*lines, **context).faults]


def only(*lines: str, **context: Any) -> Any:
    (fault,) = program(*lines, **context).faults
    return fault


def test_lines_become_steps_whose_values_are_numbered():
    assert steps("x = relu(hidden(x))", "return predict(x)") == [
        {"op": "call", "layer": "hidden", "inputs": ["x"]},
        {"op": "relu", "inputs": ["%1"]},
        {"op": "call", "layer": "predict", "inputs": ["%2"]},
        {"op": "return", "inputs": ["%3"]},
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["return predict(relu(hidden(x)))"],
        ["h = hidden(x)", "h = relu(h)", "y = predict(h)", "return y"],
        ["  a=hidden( x )", "b = a", "return predict(relu(b))  "],
    ],
    ids=["one-line", "many-lines", "aliases-and-spaces"],
)
def test_names_and_lines_leave_no_trace(lines):
    assert steps(*lines) == steps("x = relu(hidden(x))", "return predict(x)")


def test_steps_say_which_line_they_come_from():
    assert program("x = relu(hidden(x))", "return predict(x)").lines == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("expression", "step"),
    [
        ("x + 1", {"op": "add", "inputs": ["x", 1]}),
        ("x + 1.0", {"op": "add", "inputs": ["x", 1]}),
        ("x + (1/2 - 0.25) * -2", {"op": "add", "inputs": ["x", -0.5]}),
        ("2 * x", {"op": "mul", "inputs": [2, "x"]}),
        ("-x", {"op": "neg", "inputs": ["x"]}),
        ("x @ x", {"op": "matmul", "inputs": ["x", "x"]}),
        ("flatten(x)", {"op": "flatten", "inputs": ["x"]}),
        ("flatten(x, 1, end_dim=-1)", {"op": "flatten", "inputs": ["x"]}),
        ("reshape(x, 1, 28, -1)", {"op": "reshape", "inputs": ["x"], "shape": [1, 28, -1]}),
        ("reshape(x, (1, 28, -1))", {"op": "reshape", "inputs": ["x"], "shape": [1, 28, -1]}),
        ("reshape(x, -1)", {"op": "reshape", "inputs": ["x"], "shape": -1}),
        ("x[:, -1]", {"op": "getitem", "inputs": ["x"], "index": [[None, None, None], -1]}),
        ("x[0:, 1:8:2]", {"op": "getitem", "inputs": ["x"], "index": [[None, None, None], [1, 8, 2]]}),
        ("x[1]", {"op": "item", "inputs": ["x"], "index": 1}),
        ("cat([x, x], dim=1)", {"op": "cat", "inputs": ["x", "x"], "dim": 1}),
        ("cat(x, x, dim=1)", {"op": "cat", "inputs": ["x", "x"], "dim": 1}),
        ("gelu(x, approximate='tanh')", {"op": "gelu", "inputs": ["x"], "approximate": "tanh"}),
        ("max_pool2d(x, (2, 2), 2, ceil_mode=False)", {"op": "max_pool2d", "inputs": ["x"], "kernel_size": 2}),
        ("mean(x, [1, 2], True)", {"op": "mean", "inputs": ["x"], "dim": [1, 2], "keepdim": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_expression_is_one_step(expression, step):
    assert steps(f"return {expression}", layers=()) == [step, {"op": "return", "inputs": ["%1"]}]


def test_values_are_taken_apart_and_only_those_used_leave_a_step():
    lines = ["seq, (h, c) = hidden(x)", "return predict(h)"]

    assert steps(*lines)[1:3] == [
        {"op": "item", "inputs": ["%1"], "index": 1},
        {"op": "item", "inputs": ["%2"], "index": 0},
    ]


def test_values_change_places():
    lines = ["a, b = hidden(x), predict(x)", "a, b = b, a", "return a, b"]

    assert steps(*lines)[-1] == {"op": "return", "inputs": ["%2", "%1"]}


def test_a_layer_may_be_called_twice_and_have_the_name_of_an_operation():
    assert [step["op"] for step in steps("return relu(relu(x))", layers=("relu",))] == ["call", "call", "return"]


def test_a_misspelt_layer_is_told_once_with_the_right_one():
    fault = only("x = relu(conv1(x))", "return x", layers=("conc1",))

    assert fault.line == 0
    assert fault.detail == "`conv1` is not a layer here; did you mean `conc1`?"


@pytest.mark.parametrize(
    "line",
    [
        "y = x.__class__",
        "__import__('os')",
        "y = __import__('os').system('id')",
        "y = (lambda: 0)()",
        "y = [a for a in x]",
        "y = {a for a in x}",
        "y = x if x else x",
        "y = x ** 9",
        "y = x // 2",
        "y = x < 2",
        "y = not x",
        "y = x and x",
        "y = f'{x}'",
        "y = hidden(*x)",
        "y = hidden(**x)",
        "y = hidden.weight",
        "y = (y := x)",
        "x += 1",
        "y: int = x",
        "import os",
        "for a in x: pass",
        "def f(): pass",
        "del x",
        "x.y = 1",
        "x[0] = 1",
        "__builtins__ = x",
        "y = x; import os",
        "y = x\nimport os",
        "y = ｘ",
        "y = x # comment",
        "y = x \\",
        "y = 1if x else 2",
        "y = ().__class__.__bases__[0]",
        "y = getattr(x, 'weight')",
        "y = exec('1')",
        "global x",
        "await x",
        "y = ...",
        "y = b'a' + x",
        "y = 1j * x",
        "y = x[...]",
        "y = @ x",
        "y = " + "(" * 300 + "x" + ")" * 300,
        "y = " + "-" * 3000 + "x",
        "y = x" + ".a" * 1000,
        "y = x" + "[:]" * 1000,
        "y = " + "+".join(["x"] * 2000),
        "y = x + " + "9" * 4000,
        "y = x + 1e999",
        "y = x + 1e308 * 10",
        "y = x\x00",
        "\ud800 = x",
        "",
        "y",
        "relu(x)",
    ],
    ids=lambda line: repr(line[:40]),
)
def test_what_is_not_in_the_language_is_refused_at_its_line(line):
    started = time.process_time()
    compiled = program("h = hidden(x)", line, "return predict(h)")

    assert {fault.line for fault in compiled.faults} == {1}
    assert all(len(fault.detail) < 400 for fault in compiled.faults)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "line", ["y = x.__class__", "y = [a for a in x]", "__import__('os')", "y = lambda: x", "y = x ** 2"]
)
def test_attacks_are_told_to_be_outside_the_language(line):
    fault = only(line, "return predict(hidden(x))")

    assert fault.line == 0
    assert "not part of the forward language" in fault.detail


def test_a_method_call_is_told_how_to_write_it():
    assert only("x = F.relu(x)", "return x", layers=()).hint == "Write `relu(…)`."
    assert only("return self.hidden(x)").hint == "Write `hidden(…)`."


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["return hidden(predict(y))"], "undefined-value"),
        (["return hidden(predict)"], "wrong-argument"),
        (["return hidden(predict())"], "wrong-argument"),
        (["return hidden(predict(x, dim=1))"], "wrong-argument"),
        (["return hidden(predict(2))"], "wrong-argument"),
        (["return relu(x, x)"], "wrong-argument"),
        (["return relu()"], "wrong-argument"),
        (["return softmax(x, axis=1)"], "wrong-argument"),
        (["return softmax(x, 1, dim=1)"], "wrong-argument"),
        (["return softmax(x, dim=x)"], "wrong-argument"),
        (["return cat(x, x)"], "wrong-argument"),
        (["return transpose(x, 1)"], "wrong-argument"),
        (["return flatten(x, 0)"], "batch-mixed"),
        (["return x[:, ::-1]"], "wrong-argument"),
        (["return x + 1 / 0"], "wrong-argument"),
        (["return 1"], "wrong-argument"),
        (["return"], "missing-return"),
        (["a, b = 3", "return x"], "wrong-argument"),
        (["y = relu(x)", "return x"], "unused-value"),
        (["return x", "return x"], "unreachable"),
        (["return adaptive_avg_pool2d(x, 0)"], "wrong-argument"),
        (["return dropout(x, p=2)"], "wrong-argument"),
        (["return max_pool2d(x, 2, padding=2)"], "wrong-argument"),
        (["return rleu(x)"], "unknown-layer"),
        (["x = " + "x" * MAX_LINE_LENGTH, "return x"], "too-large"),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else value,
)
def test_each_mistake_has_its_code(lines, code):
    layers = LAYERS if "predict" in lines[0] else ()

    assert code in {found for _, found in faults(*lines, layers=layers)}


def test_a_layer_that_is_never_called_is_a_mistake_of_that_layer():
    fault = only("return hidden(x)")

    assert (fault.code, fault.layer, fault.line) == ("unused-layer", "predict", None)
    assert fault.detail == "`predict` is a layer that is never called."


def test_a_forward_without_return():
    assert faults("h = predict(hidden(x))") == [(None, "missing-return")]


def test_mistakes_on_several_lines_come_out_together():
    """Nothing is blamed on a line that only follows from an earlier one."""
    found = faults("a = nope(x)", "b = relu(a)", "c = b + zzz", "d = x.shape", "return hidden(predict(c))")

    assert found == [(0, "unknown-layer"), (2, "undefined-value"), (3, "not-in-language")]


CALL = {"op": "call", "layer": "g", "inputs": ["x"]}
STEPS: TypeAdapter[tuple[Step, ...]] = TypeAdapter(tuple[Step, ...])


def test_steps_may_be_written_directly():
    written = steps("x = relu(hidden(x))", "return predict(x)")

    again = from_steps(STEPS.validate_python(written), ("x",), LAYERS)

    assert again.faults == ()
    assert [step.model_dump(mode="json", exclude_defaults=True) for step in again.steps] == written


@pytest.mark.parametrize(
    ("written", "codes"),
    [
        ([{"op": "return", "inputs": ["y"]}], [(0, "undefined-value")]),
        ([{"op": "return", "inputs": ["%1"]}], [(0, "undefined-value")]),
        ([{"op": "relu", "inputs": ["%2"]}, {"op": "return", "inputs": ["%1"]}], [(0, "undefined-value")]),
        ([{"op": "relu", "inputs": ["x"]}], [(None, "missing-return")]),
        ([CALL, {"op": "return", "inputs": ["%1"]}], [(0, "unknown-layer")]),
        ([{"op": "relu", "inputs": ["x"]}, {"op": "return", "inputs": ["x"]}], [(0, "unused-value")]),
        ([{"op": "return", "inputs": ["x"]}, {"op": "return", "inputs": ["x"]}], [(1, "unreachable")]),
    ],
    ids=["undefined", "itself", "later", "no-return", "no-layer", "unused", "after-return"],
)
def test_steps_are_checked_like_lines(written, codes):
    found = from_steps(STEPS.validate_python(written), ("x",), ()).faults

    assert [(fault.line, fault.code) for fault in found] == codes


@pytest.mark.parametrize(
    ("expression", "step"),
    [
        ("attend(q, k, v)", {"inputs": ["q", "k", "v"]}),
        ("attend(q, k, v, m)", {"inputs": ["q", "k", "v", "m"]}),
        ("attend(q, k, v, attn_mask=m)", {"inputs": ["q", "k", "v", "m"]}),
        ("attend(q, k, v, None, 0.5)", {"inputs": ["q", "k", "v"], "dropout_p": 0.5}),
        ("attend(query=q, key=k, value=v, is_causal=True)", {"inputs": ["q", "k", "v"], "is_causal": True}),
        ("masked_fill(q, mask=m, value=-1e9)", {"op": "masked_fill", "inputs": ["q", "m"], "value": -1e9}),
        ("masked_fill(q, m, '-inf')", {"op": "masked_fill", "inputs": ["q", "m"], "value": "-inf"}),
        ("clamp(q, max=6)", {"op": "clamp", "inputs": ["q"], "max": 6}),
        ("eq(q, 0)", {"op": "eq", "inputs": ["q", 0]}),
        ("where(m, 1, q)", {"op": "where", "inputs": ["m", 1, "q"]}),
        ("flip(q, 1, 2)", {"op": "flip", "inputs": ["q"], "dims": [1, 2]}),
        ("cast(q)", {"op": "cast", "inputs": ["q"]}),
        ("cast(input=q, dtype='float32')", {"op": "cast", "inputs": ["q"]}),
        ("norm(q, 2.0, dim=1)", {"op": "norm", "inputs": ["q"], "dim": 1}),
        ("interpolate(q, 4, mode='bilinear', align_corners=False)", {"size": 4, "mode": "bilinear"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_and_constants_are_given_as_torch_takes_them(expression, step):
    written = expression.replace("attend", "scaled_dot_product_attention")
    op = written.partition("(")[0]

    first = steps(f"return {written}", layers=(), inputs=("q", "k", "v", "m"))[0]
    assert first == {"op": op, "inputs": ["q"], **step}


def test_several_values_of_an_operation_are_taken_apart():
    assert steps("a, _ = chunk(x, 2, dim=1)", "return a", layers=())[:2] == [
        {"op": "chunk", "inputs": ["x"], "chunks": 2, "dim": 1},
        {"op": "item", "inputs": ["%1"], "index": 0},
    ]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("y = x ** 2", "Write pow(x, 2)."),
        ("y = relu(x) ** -0.5", "Write pow(…, -0.5)."),
        ("y = x < 2", "Write lt(x, 2)."),
        ("y = x == x", "Write eq(x, x)."),
        ("y = not x", "Write logical_not(x)."),
        ("y = ~x", "Write logical_not(x)."),
        ("y = x and x", "Write logical_and(x, x)."),
        ("y = x | x", "Write logical_or(x, x)."),
        ("y = x if x else relu(x)", "Write where(x, x, …)."),
        ("y = x // 2", "There are + - * / @."),
        ("y = maximum(x, 0)", "Write clamp(x, min=…)."),
        ("y = le(0, x)", "Put the value first, as in gt(x, 0) for 0 < x."),
        ("y = x.float()", "Write `cast(x)`."),
        ("y = einsum(x, x)", "Write `x @ y`, with `transpose`, `unsqueeze` and `sum` around it."),
        ("y = max(x, x)", "Write `amax(x, dim=…)`, or `maximum(x, y)` of two values."),
        ("y = maximun(x, x)", "Write `maximum`."),
        ("y = norm(x, dmi=1)", "Did you mean 'dim'?"),
        ("a, b = chunk(x, 3, dim=1)", "Write _ for a value that is not needed."),
        ("y = where(x, x)", "It takes condition and input and other."),
    ],
    ids=lambda value: value,
)
def test_what_to_write_instead_is_told(line, hint):
    assert program(line, "return x", layers=()).faults[0].hint == hint


def test_every_promised_operation_is_there():
    promised = """add sub mul div matmul neg relu relu6 gelu silu sigmoid logsigmoid tanh hardswish hardsigmoid selu
    mish softsign leaky_relu elu softplus softmax log_softmax exp log sqrt rsqrt abs sin cos erf square pow clamp cast
    flatten reshape unflatten permute transpose squeeze unsqueeze expand_batch cat stack chunk split getitem flip roll
    mean sum amax amin prod var std norm argmax argmin cumsum normalize layer_norm
    minimum maximum eq ne lt le gt ge logical_not logical_and logical_or masked_fill where
    max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_max_pool1d adaptive_avg_pool2d
    adaptive_max_pool2d pad interpolate pixel_shuffle pixel_unshuffle
    embedding one_hot positions causal_mask padding_mask masked_mean masked_max last_valid
    scaled_dot_product_attention dropout"""

    assert sorted(promised.split()) == sorted(OPERATIONS)


def test_thousands_of_lines_are_read_in_good_time():
    started = time.process_time()
    compiled = program(*["x = relu(x)"] * 4000, "return predict(hidden(x))")

    assert compiled.faults == ()
    assert time.process_time() - started < 10
    assert len(json.dumps([step.inputs for step in compiled.steps])) < 10**6


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        pytest.param("return x.view(-1)", "Write `flatten(x)` for one long row, or `reshape(x, …)`", id="view"),
        pytest.param("return reshape(x, x.shape[1])", "Write the number itself.", id="shape-as-argument"),
        pytest.param("return x.shape", "Write the numbers themselves; in `reshape(x, …)`", id="shape"),
        pytest.param("return torch.relu(x)", "Write `relu(…)`.", id="function-of-a-module"),
        pytest.param("return F.zzz(x)", "Call a layer, or an operation such as relu", id="no-such-operation"),
        pytest.param("return view(x, 2)", "Write `flatten(x)` for one long row, or `reshape(x, …)`", id="by-name"),
        pytest.param("return x.contiguous()", "Write nothing: every operation", id="nothing"),
    ],
)
def test_the_words_of_pytorch_are_told_what_to_write_instead(line: str, hint: str) -> None:
    fault = from_lines((line,), ("x",), ()).faults[0]

    assert (fault.hint or "").startswith(hint)


@pytest.mark.parametrize(
    ("line", "code", "detail", "hint"),
    [
        ("y = relu(x)  # squash", "not-in-language", "Comments are not part", "Remove it"),
        ("# squash", "not-in-language", "Comments are not part", "Remove it"),
        ("", "syntax", "This line is empty.", "Remove it."),
        ("   ", "syntax", "This line is empty.", "Remove it."),
        ("if self.training:", "not-in-language", "`if` is not part of", "Dropout and batch norms know"),
        ("if x:", "not-in-language", "`if` is not part of", "Dropout and batch norms know"),
        ("else:", "not-in-language", "`else` is not part of", "Dropout and batch norms know"),
        ("for layer in layers:", "not-in-language", "`for` is not part of", "Write the calls one after the other"),
        ("while x: x = relu(x)", "not-in-language", "`while` is not part of", "Write the calls one after the other"),
        ("def block(x):", "not-in-language", "`def` is not part of", "Put its layers into a Graph"),
        ("import torch", "not-in-language", "`import` is not part of", "Leave it out"),
        ("with x:", "not-in-language", "`with` is not part of", "Leave it out"),
        ("y = layers[0](x)", "not-in-language", "Only a layer or an operation can be called", "Write `fc1(x)`"),
        ("y = (lambda a: a)(x)", "not-in-language", "Only a layer or an operation can be called", "Write `fc1(x)`"),
        ("x[0] = x", "not-in-language", "An element cannot be assigned to", "Write `name = expression`."),
        ("y = mean(x)", "wrong-argument", "mean needs `dim`.", "Write mean(…, dim=…)."),
        (
            "y = relu(x, inplace=True)",
            "wrong-argument",
            "relu has no argument `inplace`",
            "Leave it out: operations are",
        ),
        ("y = dropout(x, 0.5, inplace=True)", "wrong-argument", "dropout has no argument", "Leave it out: operations"),
        ('y = cast(x, "long")', "wrong-argument", "This is no `dtype` that cast knows.", "Did you mean 'int64'?"),
        ("print(x.shape)", "unknown-layer", "`print` is not an operation here.", "Write nothing: "),
        (
            "y = pack_padded_sequence(x, x)",
            "unknown-layer",
            "`pack_padded_sequence` is not",
            "Write `out, (h, c) = lstm",
        ),
        (
            "y = rnn.pad_packed_sequence(x)",
            "not-in-language",
            "`….pad_packed_sequence(…)`",
            "Write `out, (h, c) = lstm",
        ),
    ],
)
def test_what_people_try_is_told_with_the_way_out(line: str, code: str, detail: str, hint: str) -> None:
    first = from_lines((line, "return x"), ("x",), ()).faults[0]

    assert (first.line, first.code) == (0, code)
    assert first.detail.startswith(detail)
    assert (first.hint or "").startswith(hint)


def _kinds(kind: type[ast.AST]) -> list[type[ast.AST]]:
    return [kind for sub in kind.__subclasses__() for kind in ([sub] if not sub.__subclasses__() else _kinds(sub))]


@pytest.mark.parametrize("text", ["y = await x", "y: int = x", "y = (z := x)", "y = *x", "lambda: x", "y = x < x < x"])
def test_no_word_of_the_parser_comes_out(text: str) -> None:
    names = {kind.__name__ for kind in (*_kinds(ast.stmt), *_kinds(ast.expr))}
    told = " ".join(fault.detail for fault in from_lines((text, "return x"), ("x",), ()).faults)

    assert told
    assert not {f"`{name}`" for name in names} & set(told.split())
