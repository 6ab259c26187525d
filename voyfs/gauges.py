"""Which figures a mount shows to Prometheus, taken when it is asked."""

from collections.abc import Callable

from voyfs.background import Background
from voyfs.core.metrics import Family
from voyfs.hydrator import Hydrator
from voyfs.ports import BlockSource
from voyfs.store.store import Store

Labels = tuple[tuple[str, str], ...]


def families_of(
    store: Store, hydrator: Hydrator, background: Background, source: BlockSource
) -> Callable[[], list[Family]]:
    """What gives all metrics of this daemon as they are at that moment."""

    def families() -> list[Family]:
        progress, totals, carrier = hydrator.progress, store.records.totals, background.carrier
        hits, misses = progress.hits, progress.waits.count
        return [
            _counter("bytes_total", "Bytes that came into the store, by where from.", origin={
                "demand": progress.demand_bytes,
                "background": progress.background_bytes,
                "seed": progress.seed_bytes,
                "write": progress.written_bytes,
            }),
            _counter("spared_bytes_total", "Bytes of these that did not cross the network, for they came packed.",
                     {(): progress.spared_bytes}),
            _counter("demand_fetches_total", "Fetches that somebody waited for.", {(): progress.demand_fetches}),
            _counter("reads_total", "Reads that reached the daemon, by whether all was local.", result={
                "hit": hits,
                "miss": misses,
            }),
            _gauge("hit_ratio", "Share of reads whose bytes were local.", {(): hits / ((hits + misses) or 1)}),
            Family("voyfs_demand_wait_seconds", "histogram", "How long reads waited for the source.",
                   histogram=progress.waits),
            _gauge("queue_depth", "What is under way or waits, by lane.", lane={
                "demand": hydrator.demands,
                "background": carrier.running,
                "background_first": progress.first,
                "background_files": len(hydrator.fresh),
            }),
            _gauge("bandwidth_limit_bytes", "The background's limit a second; 0: none.", {(): carrier.pacer.rate}),
            _gauge("known_bytes", "Bytes of the files known so far, by whether they are local.", state={
                "present": totals.bytes - totals.absent_bytes,
                "absent": totals.absent_bytes,
            }),
            _gauge("known_files", "Files known so far, by whether they are local.", state={
                "present": totals.files - totals.incomplete_files,
                "absent": totals.incomplete_files,
            }),
            _gauge("source_reachable", "Whether the source answered when last asked.", {(): source.reachable}),
            _gauge("hydrated", "Whether everything is local.", {(): progress.hydrated or store.detached}),
        ]  # fmt: skip

    return families


def _counter(name: str, text: str, values: dict[Labels, float] | None = None, **labelled: dict[str, int]) -> Family:
    return Family(f"voyfs_{name}", "counter", text, values or _labelled(**labelled))


def _gauge(name: str, text: str, values: dict[Labels, float] | None = None, **labelled: dict[str, int]) -> Family:
    return Family(f"voyfs_{name}", "gauge", text, values or _labelled(**labelled))


def _labelled(**labelled: dict[str, int]) -> dict[Labels, float]:
    return {((label, text),): value for label, values in labelled.items() for text, value in values.items()}
