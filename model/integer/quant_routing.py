# SPDX-License-Identifier: MIT
"""Routing by counts between training and the policy's tensors: thresholds are integers in either."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from model.deployed.geometry import Geometry
from model.network.routing import CountRouting, Routing


def quantise(routing: Routing | None) -> Routing | None:
    """Return a routing to train on beside integers. Raises `ValueError` for the paper's, which has no integer form."""
    if routing is not None and not isinstance(routing, CountRouting):
        raise ValueError("routing mlp has no integer form; set quant_steps to 0, or choose count")
    return copy.deepcopy(routing)


def integers(routing: Routing | None) -> dict[str, Tensor]:
    """Return what the artifact stores."""
    return {"routing.threshold": routing.thresholds()} if isinstance(routing, CountRouting) else {}


def load(tensors: Mapping[str, Tensor], geometry: Geometry) -> CountRouting | None:
    """Return the routing that a layer's tensors hold, None where there is none."""
    if geometry.routing == "none":
        return None
    routing = CountRouting(geometry)
    # the middle between two counts, which no rounding moves past one
    share = (tensors["routing.threshold"] + 0.5) / geometry.largest_query_count
    routing.share.data = share.to(torch.get_default_dtype())
    return routing
