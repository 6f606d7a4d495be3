"""This module is the server behind `twinrl view`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import viser

from protos.errors import InputError
from protos.files import read_object
from services.net import free_port
from twin import tasks
from twin.align import FILE, read_cameras
from twin.objects import FOLDER, ScannedObject
from twin.scene import Scene
from twin.splats import read_splats
from twinrl.viewer.robot import PosedRobot
from twinrl.viewer.shapes import CAPTURE, add_camera, add_object, add_regions, add_splats, add_surroundings

SPLAT_FILES = (".ply", ".spz")
GROUPS = ("robot", "objects", "regions", "cameras")
"""Nodes of the scene tree with others below them."""


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Settings of the viewer."""

    task: str = "pick_and_place"
    """Task whose regions and bodies are shown."""
    host: str = "127.0.0.1"
    """Address to listen at. All who reach it see the scene: there is no password."""
    port: int = 8080
    """Port to listen at; 0 is any free one."""


@contextmanager
def serving(source: Path, settings: ViewSettings) -> Iterator[str]:
    """Shows a scene folder or a splat file while the context lasts; yields the address. Raises `InputError`."""
    task = tasks.get(settings.task)
    if source.suffix in SPLAT_FILES:
        splats, scene = read_splats(source), None
    else:
        scene = Scene.load(source)
        splats = scene.static
    objects = [ScannedObject.load(path.parent) for path in sorted(source.glob(f"{FOLDER}/*/object.toml"))]
    cameras = read_cameras(source).cameras if (source / FILE).is_file() and _has_lens(source) else {}
    server = _server(settings)
    try:
        server.scene.set_up_direction("+z")
        for name in GROUPS if scene is not None else ():
            server.scene.add_frame(f"/{name}", show_axes=False)
        add_splats(server, "/splats", splats)
        if scene is None:
            _look(server, splats.means.mean(axis=0), 2.5 * float(np.std(splats.means, axis=0).max()))
        else:
            _look(server, np.array([-0.33, -0.02, 0.1]), 1.35)
            add_surroundings(server, scene)
            add_regions(server, task)
            robot = PosedRobot(server, scene, task, task.space.sample(np.random.default_rng(0)))
            robot.add_sliders()
        for name, camera in cameras.items():
            add_camera(server, f"/cameras/capture/{name}", camera, CAPTURE, scale=0.03)
        for thing in objects:
            add_object(server, thing)
        _add_switches(server)
        yield f"http://{settings.host}:{server.get_port()}"
    finally:
        server.stop()


def _server(settings: ViewSettings) -> viser.ViserServer:
    if not 0 <= settings.port <= 65535:
        raise InputError(f"--port {settings.port}: 0 (any free one) to 65535")
    port = settings.port or free_port(settings.host)
    server = viser.ViserServer(host=settings.host, port=port, label="TwinRL", verbose=False)
    server.gui.configure_theme(dark_mode=False, show_share_button=False)
    return server


def _has_lens(folder: Path) -> bool:
    """Tells whether a report has a lens; those of older scans have poses only, and their cameras are not shown."""
    return "lens" in read_object(folder / FILE)


def _look(server: viser.ViserServer, at: np.ndarray, distance: float) -> None:
    """Sets the first view of a browser that connects: from the side camera's side, a little above."""
    server.initial_camera.look_at = tuple(at)
    server.initial_camera.position = tuple(at + distance * np.array([-0.62, -0.42, 0.66]))
    server.initial_camera.up = (0.0, 0.0, 1.0)


def _add_switches(server: viser.ViserServer) -> None:
    """Adds a box to tick for each kind of thing that is there."""
    with server.gui.add_folder("show"):
        for name in (*GROUPS, "splats", "table", "workspace"):
            node = server.scene.get_handle_by_name(f"/{name}")
            if node is not None:
                switch = server.gui.add_checkbox(name, initial_value=True)
                switch.on_update(lambda event, node=node: setattr(node, "visible", event.target.value))
