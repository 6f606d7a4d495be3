"""This module stands in for Isaac Gym and checks how it is called. Joints go where they are told; nothing falls.

It holds what the real one does: assets before actors, actors before `prepare_sim`, one write of a kind per step,
tensors that are stale until refreshed, quaternions with w last. Its kinematics are MuJoCo's of the URDF files.
"""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mujoco
import numpy as np
import torch

from twin.rotations import matrix_from_quaternion, multiply, quaternion_from_matrix

KEEP = "<mujoco><compiler fusestatic='false' discardvisual='false' balanceinertia='false'/></mujoco>"
DT = 0.005
DOF = [("lower", "f4"), ("upper", "f4"), ("driveMode", "i4"), ("velocity", "f4"), ("effort", "f4"), ("stiffness", "f4")]
DOF += [("damping", "f4"), ("friction", "f4"), ("armature", "f4")]


class Vec3:
    def __init__(self, x=0.0, y=0.0, z=0.0):
        self.x, self.y, self.z = float(x), float(y), float(z)


class Quat:
    def __init__(self, x=0.0, y=0.0, z=0.0, w=1.0):
        self.x, self.y, self.z, self.w = float(x), float(y), float(z), float(w)


class Transform:
    def __init__(self, p=None, r=None):
        self.p, self.r = p or Vec3(), r or Quat()


class Asset:
    def __init__(self, name, model, options):
        self.name, self.model, self.options, self.sensors = name, model, options, []
        self.bodies = [model.body(i).name for i in range(1, model.nbody)] if model else [name]
        self.dofs = [model.joint(i).name for i in range(model.njnt)] if model else []


class FakeGym:
    """A fake gym holds one simulation at a time."""

    def create_sim(self, compute, graphics, kind, params):
        assert kind == "physx" and params.dt == DT and params.gravity.z < -9 and params.up_axis == "z"
        self.actors, self.envs, self.prepared, self.fetched, self.alive = [], 0, False, True, True
        return self

    def load_asset(self, sim, folder, filename, options):
        text = (Path(folder) / filename).read_text().replace("</robot>", f"{KEEP}</robot>")
        meshes = {path.name: path.read_bytes() for path in Path(folder).glob("*.obj")}
        return Asset(Path(filename).stem, mujoco.MjModel.from_xml_string(text, meshes), options)

    def create_box(self, sim, width, height, depth, options):
        assert min(width, height, depth) > 0
        return Asset("table", None, options)

    def find_asset_rigid_body_index(self, asset, name):
        return asset.bodies.index(name)

    def create_asset_force_sensor(self, asset, body, pose, properties):
        assert not self.actors, "sensors before actors"
        assert properties.use_world_frame and not properties.enable_forward_dynamics_forces
        asset.sensors.append(body)

    def create_env(self, sim, lower, upper, per_row):
        assert not self.prepared
        self.envs += 1
        return self.envs - 1

    def create_actor(self, env, asset, pose, name, group, filters):
        assert group == env, "a collision group per environment"
        root = [pose.p.x, pose.p.y, pose.p.z, pose.r.x, pose.r.y, pose.r.z, pose.r.w, *[0.0] * 6]
        first = sum(len(actor.asset.bodies) for actor in self.actors)
        self.actors.append(SimpleNamespace(env=env, asset=asset, root=np.array(root), first=first, servo=None))
        return len(self.actors) - 1

    def get_actor_index(self, env, actor, domain):
        assert domain == "sim" and self.actors[actor].env == env
        return actor

    def find_actor_rigid_body_index(self, env, actor, name, domain):
        assert domain == "sim"
        return self.actors[actor].first + self.actors[actor].asset.bodies.index(name)

    def get_actor_rigid_shape_properties(self, env, actor):
        model = self.actors[actor].asset.model
        return [SimpleNamespace(friction=1.0) for _ in range(model.ngeom if model else 1)]

    def set_actor_rigid_shape_properties(self, env, actor, properties):
        assert all(0 < shape.friction < 10 for shape in properties)

    def get_asset_dof_names(self, asset):
        return asset.dofs

    def get_asset_dof_properties(self, asset):
        return np.zeros(len(asset.dofs), DOF)

    def set_actor_dof_properties(self, env, actor, properties):
        assert (properties["driveMode"] == 1).all() and (properties["stiffness"] > 0).all()
        assert (properties["effort"] > 0).all() and (properties["damping"] > 0).all()
        self.actors[actor].servo = properties

    def prepare_sim(self, sim):
        self.arms = [index for index, actor in enumerate(self.actors) if actor.asset.dofs]
        assert all(self.actors[index].servo is not None for index in self.arms)
        self.prepared, width = True, len(self.actors[self.arms[0]].asset.dofs)
        self.now = {
            "root": np.stack([actor.root for actor in self.actors]),
            "dof": np.zeros((len(self.arms), width, 2)),
            "sensor": np.zeros((sum(len(actor.asset.sensors) for actor in self.actors), 6)),
        }
        self.targets, self.pending = np.zeros((len(self.arms), width)), {}
        self._place()
        self.shown = {
            name: torch.zeros(values.reshape(-1, values.shape[-1]).shape) for name, values in self.now.items()
        }

    def acquire(self, name):
        assert self.prepared
        return SimpleNamespace(tensor=self.shown[name])

    def refresh(self, name):
        assert self.fetched, "fetch_results after simulate"
        if name == "rigid":
            self._place()
        values = self.now[name].reshape(-1, self.now[name].shape[-1])
        self.shown[name].copy_(torch.from_numpy(values.astype(np.float32)))

    def write(self, name, states, rows, count):
        assert name not in self.pending, "one write of a kind before a step"
        assert rows.tensor.dtype == torch.int32 and len(rows.tensor) == count > 0
        assert torch.isfinite(states.tensor).all(), "PhysX would blow up"
        self.pending[name] = states.tensor, rows.tensor

    def set_dof_position_target_tensor(self, sim, targets):
        self.aims = targets.tensor

    def simulate(self, sim):
        assert self.alive
        if "root" in self.pending:
            states, rows = self.pending["root"]
            self.now["root"][rows.tolist()] = states[rows.tolist()].numpy()
        if "dof" in self.pending:
            states, rows = self.pending["dof"]
            arms = [self.arms.index(row) for row in rows.tolist()]
            self.now["dof"][arms] = states.reshape(self.now["dof"].shape)[arms].numpy()
        self.pending, self.fetched = {}, False
        aims = self.aims.numpy().reshape(self.targets.shape)
        moved = np.clip(aims - self.now["dof"][:, :, 0], -2 * DT, 2 * DT)
        self.now["dof"][:, :, 0] += moved
        self.now["dof"][:, :, 1] = moved / DT

    def fetch_results(self, sim, wait):
        assert wait
        self.fetched = True

    def destroy_sim(self, sim):
        self.alive = False

    def _place(self):
        rows = []
        for index, actor in enumerate(self.actors):
            root = self.now["root"][index]
            quaternion = np.roll(root[3:7], 1)
            turn = matrix_from_quaternion(quaternion)
            if not actor.asset.dofs:
                rows.append(root)
                continue
            data = mujoco.MjData(actor.asset.model)
            data.qpos[:] = self.now["dof"][self.arms.index(index), :, 0]
            mujoco.mj_kinematics(actor.asset.model, data)
            for body in range(1, actor.asset.model.nbody):
                turned = multiply(quaternion, quaternion_from_matrix(data.xmat[body].reshape(3, 3)))
                place = root[:3] + turn @ data.xpos[body]
                rows.append(np.concatenate([place, np.roll(turned, -1), np.zeros(6)]))
        self.now["rigid"] = np.stack(rows)


NAMES = {"actor_root_state": "root", "dof_state": "dof", "rigid_body_state": "rigid", "force_sensor": "sensor"}
for _long, _short in NAMES.items():
    setattr(FakeGym, f"acquire_{_long}_tensor", lambda gym, sim, name=_short: gym.acquire(name))
    setattr(FakeGym, f"refresh_{_long}_tensor", lambda gym, sim, name=_short: gym.refresh(name))
for _long in ("actor_root_state", "dof_state"):
    setattr(
        FakeGym,
        f"set_{_long}_tensor_indexed",
        lambda gym, sim, states, rows, count, name=NAMES[_long]: gym.write(name, states, rows, count),
    )


def unwrap(tensor):
    assert tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.int32)
    return SimpleNamespace(tensor=tensor)


def install(monkeypatch):
    """Makes `import isaacgym` find the fake."""
    package, api, glue = (ModuleType(name) for name in ("isaacgym", "isaacgym.gymapi", "isaacgym.gymtorch"))
    package.__spec__ = ModuleSpec("isaacgym", None)
    package.gymapi, package.gymtorch = api, glue
    for kind in (Vec3, Quat, Transform):
        setattr(api, kind.__name__, kind)
    api.SIM_PHYSX, api.UP_AXIS_Z, api.DOMAIN_SIM, api.DOF_MODE_POS = "physx", "z", "sim", 1
    api.SimParams = lambda: SimpleNamespace(physx=SimpleNamespace())
    api.AssetOptions, api.ForceSensorProperties = SimpleNamespace, SimpleNamespace
    api.acquire_gym = FakeGym
    glue.wrap_tensor, glue.unwrap_tensor = lambda handle: handle.tensor, unwrap
    for module in (package, api, glue):
        monkeypatch.setitem(sys.modules, module.__name__, module)
