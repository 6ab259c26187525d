"""Figures as Prometheus reads them."""

from voyfs.core.metrics import Family, Histogram, exposition


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.25, 0.5, 0.75, 3.0):
        histogram.observe(value)
    text = exposition([Family("x_seconds", "histogram", "Waiting.", histogram=histogram)])
    assert text.decode().splitlines() == [
        "# HELP x_seconds Waiting.",
        "# TYPE x_seconds histogram",
        'x_seconds_bucket{le="0.5"} 2',
        'x_seconds_bucket{le="1.0"} 3',
        'x_seconds_bucket{le="+Inf"} 4',
        "x_seconds_sum 4.5",
        "x_seconds_count 4",
    ]


def test_values_with_and_without_labels() -> None:
    families = [
        Family("a_total", "counter", "A.", {(("origin", "seed"),): 2**53, (("origin", "write"),): 0}),
        Family("b", "gauge", "B.", {(): 0.5}),
    ]
    assert exposition(families).decode().splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{origin="seed"} 9007199254740992',
        'a_total{origin="write"} 0',
        "# HELP b B.",
        "# TYPE b gauge",
        "b 0.5",
    ]
