"""Registers the sections of the report, in the order of the page."""

from jaxft.report.sections.analyses import make_analyses
from jaxft.report.sections.anova import make_anova
from jaxft.report.sections.arms import make_arms
from jaxft.report.sections.change import make_change
from jaxft.report.sections.curves import make_curves
from jaxft.report.sections.distances import make_distances
from jaxft.report.sections.factors import make_factors
from jaxft.report.sections.made import make_made
from jaxft.report.sections.registry import SECTIONS, Section
from jaxft.report.sections.settings import make_settings
from jaxft.report.sections.trials import make_trials

SECTIONS.register("arms", Section("Arms", make_arms), help="arms at the selected levels, and their paired differences")
SECTIONS.register("settings", Section("Settings", make_settings), help="table of settings, with means over seeds")
SECTIONS.register(
    "factors", Section("Accuracy by factor", make_factors, "Factors"), help="test accuracy by level of each factor"
)
SECTIONS.register(
    "anova",
    Section("Analysis of variance", make_anova, "ANOVA"),
    help="effect of each factor, with F test and effect sizes",
)
SECTIONS.register(
    "curves", Section("Learning curves", make_curves), help="validation accuracy and training loss by epoch"
)
SECTIONS.register(
    "change", Section("Parameter change by layer", make_change, "Parameter change"), help="maps of layers"
)
SECTIONS.register(
    "distances",
    Section("Distances between runs", make_distances, "Distances"),
    help="L2 distances between the final weights of all pairs of runs",
)
SECTIONS.register("analyses", Section("Analyses", make_analyses), help="results of the analyses of the final weights")
SECTIONS.register("trials", Section("Trials", make_trials), help="table of trials")
SECTIONS.register("made", Section("How to reproduce it", make_made), help="commands, runs, source networks and config")
