"""From published papers to token stores: layouts, cleaning, selection, decontamination, a generated corpus, the build."""
