"""Times on the GPU. Every call works on the next of several sets of tensors, more together than the L2 cache
holds, so that it finds the cache cold.

replay_ms  a CUDA graph of calls, time of a replay divided by its calls: what the GPU needs
call_ms    calls made one after the other from Python: what a user sees, launches included where they don't keep up
"""

import statistics

import torch


def _event_ms(enqueue, repeats):
    times = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        enqueue()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def _rounds(once_ms):
    return max(3, min(15, int(60.0 / (once_ms + 1e-3))))


def _repeated(calls, once_ms):
    """The calls again and again, for about 2 ms: what starts a measurement should not count."""
    return calls * max(1, min(64, int(2.0 / (len(calls) * once_ms + 1e-3))))


def call_ms(calls):
    """Median time of one call of `calls`, functions without arguments that are called in turn."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    once = _event_ms(calls[0], 1)
    calls = _repeated(calls, once)
    return _event_ms(lambda: [call() for call in calls], _rounds(len(calls) * once)) / len(calls)


def replay_ms(calls, once_ms):
    """The same by graph replay; None where the calls can't be captured. once_ms: about the time of a call."""
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    calls = _repeated(calls, once_ms)
    try:
        with torch.cuda.stream(stream):
            calls[0]()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    once = _event_ms(graph.replay, 1)
    return _event_ms(graph.replay, _rounds(once)) / len(calls)


def sets_needed(bytes_of_one):
    """Sets of tensors that four times the L2 cache can't hold."""
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(48, -(-4 * l2 // max(bytes_of_one, 1))))
