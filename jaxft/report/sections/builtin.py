"""The sections of the report, in the order in which the page has them."""

from jaxft.report.sections.arms import make_arms
from jaxft.report.sections.change import make_change
from jaxft.report.sections.curves import make_curves
from jaxft.report.sections.distances import make_distances
from jaxft.report.sections.factors import make_factors
from jaxft.report.sections.made import make_made
from jaxft.report.sections.registry import SECTIONS, Section
from jaxft.report.sections.settings import make_settings
from jaxft.report.sections.trials import make_trials

SECTIONS.register("arms", Section("Selected on validation", make_arms), help="arms and their paired differences")
SECTIONS.register("settings", Section("Settings", make_settings), help="table of settings, means over seeds")
SECTIONS.register("factors", Section("Accuracy by factor", make_factors, "Factors"), help="test accuracy by level")
SECTIONS.register("curves", Section("Learning curves", make_curves), help="accuracy and loss by epoch")
SECTIONS.register("change", Section("What changed, layer by layer", make_change, "What changed"), help="maps of layers")
SECTIONS.register("distances", Section("Distances between runs", make_distances, "Distances"), help="between all pairs")
SECTIONS.register("trials", Section("Trials", make_trials), help="table of trials")
SECTIONS.register("made", Section("How it was made", make_made), help="commands, runs, sources and config")
