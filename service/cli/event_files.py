"""TensorBoard's event files of a job, out of what the API says of it: scalars, histograms, images, graph, hparams.

They are written while they are looked at and not while a net is trained, so they cost a training nothing, and every job
has them. Knows the answers of the API and the package tensorboard, which is imported when the first file is begun.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from PIL import Image
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from service.schemas import architecture as architectures
from service.schemas.judgement import require
from service.schemas.mermaid import mermaid

Get = Callable[[str], Any]
"""A path of the API to its JSON, or None where there is nothing."""

_PAGE: Final = 1000
_CELL: Final = 64
"""Pixels of a feature map's longer side."""
_FINAL: Final = frozenset({"succeeded", "failed", "cancelled"})


def run_name(job: Mapping[str, Any]) -> str:
    """The folder of a job below the log folder: model, time and the last digits of the id; a name and never a path."""
    model = str((job["resolved_spec"].get("output") or {}).get("model", "job"))
    made = re.sub(r"[^0-9]", "", str(job["created_at"]))[:14]
    return "-".join(re.sub(r"[^A-Za-z0-9_.]", "_", part).lstrip(".") for part in (model, made, str(job["id"])[-8:]))


class Run:
    """One job's event file, which grows as the job goes on.

    Args:
        folder: that TensorBoard looks into; the job's own is made in it.
        job: as the API shows it.
        get: asks the API.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], get: Get) -> None:
        self._id = str(job["id"])
        self._get = get
        self._after = 0
        self._seen: tuple[int, bool] | None = None
        self.ended = False
        """Whether all is written that there will be."""
        self.folder = folder / run_name(job)
        self._writer = EventFileWriter(str(self.folder))
        self._at = _seconds(str(job["created_at"]))
        self._summarise(0, hparams_pb(hparams(job["resolved_spec"]), start_time_secs=self._at))
        graph = graph_of(job["resolved_spec"].get("architecture"))
        if graph is not None:
            self._writer.add_event(Event(wall_time=self._at, graph_def=graph.SerializeToString()))

    def update(self) -> None:
        """Write what has happened since the last time."""
        job = self._get(f"/v1/jobs/{self._id}")  # first: what comes after its end is nothing
        if job is None:
            self.close()
            return
        while page := self._get(f"/v1/jobs/{self._id}/events?after={self._after}&limit={_PAGE}"):
            for event in page["data"]:
                self._after = max(self._after, int(event["id"]))
                self._take(event)
            if page["next"] is None:
                break
        self._draw()
        if job["state"] in _FINAL:
            for name, value in job["metrics"]["last"].items():
                self._scalar(f"final/{name}", int((job["progress"] or {}).get("step", 0)), value)
            self._summarise(0, _ended(job["state"] == "succeeded", self._at))
            self.close()
        else:
            self._writer.flush()

    def close(self) -> None:
        """Write no more."""
        self.ended = True
        self._writer.close()

    def _take(self, event: Mapping[str, Any]) -> None:
        self._at = _seconds(event["at"])
        data = event["data"]
        if event["type"] == "log" and "resumed_from_step" in data:  # later steps come again
            again = Event(step=int(data["resumed_from_step"]) + 1, session_log=SessionLog(status=SessionLog.START))
            again.wall_time = self._at
            self._writer.add_event(again)
        if event["type"] == "metrics":
            for series in data["series"]:
                for step, value in zip(series["steps"], series["values"], strict=True):
                    self._scalar(series["name"], step, value)

    def _scalar(self, name: str, step: int, value: float) -> None:
        self._summarise(step, Summary(value=[Summary.Value(tag=name, simple_value=value)]))

    def _summarise(self, step: int, summary: Summary) -> None:
        self._writer.add_event(Event(wall_time=self._at, step=step, summary=summary))

    def _draw(self) -> None:
        """The figures of the net, if there are newer ones than those that were written."""
        weights = self._figure("weights")
        if weights is None:
            return
        meta = weights["layout"]["meta"]
        if self._seen == (meta["step"], meta["final"]):
            return
        self._seen = meta["step"], meta["final"]
        values = [Summary.Value(tag=f"weights/{one['name']}", histo=_histogram(one)) for one in weights["data"]]
        images = self._figure("images") or {"data": []}
        for one in images["data"]:
            content = base64.b64decode(one["source"].partition(",")[2])
            values.append(Summary.Value(tag=f"images/{one['name']}", image=_image(Image.open(io.BytesIO(content)))))
        features = self._figure("features")
        for layer in features["layout"]["meta"]["layers"] if features is not None else ():
            figure = self._figure(f"features?layer={quote(layer)}")
            if figure is not None:
                values.append(Summary.Value(tag=f"features/{layer}", image=_image(_sheet(figure))))
        self._summarise(int(meta["step"]), Summary(value=values))

    def _figure(self, name: str) -> Any:
        return self._get(f"/v1/jobs/{self._id}/figures/{name}")


def hparams(spec: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """What of a training's resolved spec is a single number, word or flag: by names such as `optimizer.lr`."""
    found: dict[str, bool | float | str] = {}
    for name, value in spec.items():
        if name in ("architecture", "dataset", "labels", "kind", "metrics"):
            continue
        members = value.items() if isinstance(value, dict) else [("", value)]
        for member, inner in members:
            key = f"{name}.{member}" if member else name
            if isinstance(inner, (bool, str)):
                found[key] = inner
            elif isinstance(inner, (int, float)):
                found[key] = float(inner)
    return found


def graph_of(document: Any) -> GraphDef | None:
    """A net as TensorBoard's graph: containers as name scopes, layers and operations as nodes; None of what is no net.

    Args:
        document: a resolved architecture.
    """
    if not isinstance(document, dict):
        return None
    judged = require(architectures.parse(document))
    if judged.architecture is None or judged.summary is None:
        return None
    graph = GraphDef(versions=VersionDef(producer=22))
    scopes: list[str] = []
    nodes: dict[str, NodeDef] = {}
    taken: set[str] = set()
    for line in mermaid(judged.architecture, judged.summary).splitlines():
        if scope := re.fullmatch(r'\s*subgraph s\d+\["(.*)"\]', line):
            scopes.append(_scope(scope[1].partition(" · ")[0]))
        elif line.strip() == "end":
            scopes.pop()
        elif node := re.fullmatch(r'\s*(n\d+)\W+"(.*?)"\W+', line):
            name, _, kind = node[2].partition("<br/>")
            path = "/".join([*scopes[1:], _scope(name)])  # all is in the root
            while path in taken:
                path += "_"
            taken.add(path)
            nodes[node[1]] = NodeDef(name=path, op=_spelt(kind or name))
        elif edge := re.fullmatch(r'\s*(n\d+) -->(?:\|"(.*?)"\|)? (n\d+)', line):
            nodes[edge[3]].input.append(nodes[edge[1]].name)
            if edge[2]:
                sizes = [int(size) if size.isdigit() else -1 for size in edge[2].split(" × ")]
                shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])
                listed = AttrValue(list=AttrValue.ListValue(shape=[shape]))
                nodes[edge[1]].attr["_output_shapes"].CopyFrom(listed)
    graph.node.extend(nodes.values())
    return graph


def _scope(label: str) -> str:
    """A part of a node's name in the characters that TensorBoard knows."""
    signs = {"+": "add", "−": "subtract", "×": "multiply", "÷": "divide", "@": "matmul"}
    spelt = signs.get(label[:1], "") if label[:1] in signs else label
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", _spelt(spelt)).strip("_.-") or "value"


def _spelt(label: str) -> str:
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), label)


def _ended(succeeded: bool, at: float) -> Summary:
    """That a session of the hparams plugin is over."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    about = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=at))
    described = metadata.create_summary_metadata(about)
    tag = metadata.SESSION_END_INFO_TAG
    return Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])


def _histogram(trace: Mapping[str, Any]) -> HistogramProto:
    """Of the middles of bars and their heights."""
    middles, counts = np.array(trace["x"], dtype=float), np.array(trace["y"], dtype=float)
    half = (middles[1] - middles[0]) / 2
    return HistogramProto(
        min=middles[0] - half,
        max=middles[-1] + half,
        num=counts.sum(),
        sum=float(middles @ counts),
        sum_squares=float(middles**2 @ counts),
        bucket_limit=(middles + half).tolist(),
        bucket=counts.tolist(),
    )


def _sheet(figure: Mapping[str, Any]) -> Image.Image:
    """The heat maps of a figure as one grey picture, four in a row."""
    maps = [np.array(trace["z"], dtype=float) for trace in figure["data"]]
    low, high = min(each.min() for each in maps), max(each.max() for each in maps)
    height, width = maps[0].shape
    scale = max(1, _CELL // max(height, width))
    rows = math.ceil(len(maps) / 4)
    sheet = np.zeros((rows * (height * scale + 2), 4 * (width * scale + 2)), dtype=np.uint8)
    for place, each in enumerate(maps):
        top, left = (place // 4) * (height * scale + 2), (place % 4) * (width * scale + 2)
        levels = ((each - low) / ((high - low) or 1) * 255).round().astype(np.uint8)
        sheet[top : top + height * scale, left : left + width * scale] = np.kron(
            levels, np.ones((scale, scale), dtype=np.uint8)
        )
    return Image.fromarray(sheet)


def _image(picture: Image.Image) -> Summary.Image:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    channels = len(picture.getbands())
    return Summary.Image(
        height=picture.height, width=picture.width, colorspace=channels, encoded_image_string=content.getvalue()
    )


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
