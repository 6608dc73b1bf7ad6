"""Stands before `trio`, which comes along with selenium: httpcore imports it if it is there, which is a third of what a
command costs. Who uses clusterctl does not have it."""

raise ImportError("not for processes under test")
