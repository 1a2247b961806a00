# SPDX-License-Identifier: MIT
"""Shows on the terminal what is being built, whatever pytest captures."""

import sim.build


def pytest_configure(config):
    sim.build.uncaptured = config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled
