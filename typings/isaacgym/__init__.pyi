"""Types of the part of Isaac Gym Preview 4 that a vector twin needs.

Isaac Gym is downloaded from NVIDIA and has no package index entry, so it is absent where types are checked. These stubs
stand in for it there; at run time the real package is imported, before torch. Only what loads assets, steps PhysX with
one environment per twin and exchanges state as tensors is declared: no viewer, no cameras, no Flex.
"""

from isaacgym import gymapi as gymapi
from isaacgym import gymtorch as gymtorch
