"""Domains described in the cluster: their custom resources are read, checked, and given a status.

    BandwidthDomain --> watcher.py --> manifest.py --> the set of definitions
    samples, decisions, limits in force --> status.py --> keeper.py --> the resource's status

``crd.py`` writes the CustomResourceDefinition.
"""
