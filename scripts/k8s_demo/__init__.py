"""The life of a release on a real cluster, from install to uninstall: ``make k8s-demo``."""
