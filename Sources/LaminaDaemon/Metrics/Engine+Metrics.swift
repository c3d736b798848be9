import FoundationEssentials
import LaminaFilesystem
import LaminaMerge
import LaminaStore
import LaminaSystem
import Synchronization

// What Prometheus scrapes. docs/metrics.md lists the same names; a test holds the two together.

extension Engine {
    public func metrics() throws -> String {
        var text = MetricsText()
        text.info("lamina_build_info", "The version that runs.", [("version", Self.version)])
        pulls(&text)
        merges(&text)
        opens(&text)
        try store(&text)
        try trust(&text)
        try sealing(&text)
        takeover(&text)
        process(&text)
        return text.text
    }

    private func pulls(_ text: inout MetricsText) {
        let pulls = pullCounters.snapshot
        text.family(
            "lamina_pulls_total", .counter, "Pulls that ended, those of mounts included, by how.", by: "result",
            PullCounters.Result.allCases.map { ($0.rawValue, pulls.results[$0] ?? 0) })
        text.gauge("lamina_pulls_running", "Pulls at work.", pulls.running)
        text.histogram(
            "lamina_pull_duration_seconds", "How long pulls took.", pullCounters.durations.bounds,
            pullCounters.durations.snapshot)
    }

    private func merges(_ text: inout MetricsText) {
        let merges = merge.statistics
        text.gauge("lamina_merges_queued", "Requests of readers that no fetcher has taken up.", merges.queued)
        text.gauge("lamina_merges_running", "Files of which bytes are asked for or on their way.", merges.running)
        text.histogram(
            "lamina_merge_duration_seconds", "From a file's first request until all of it was there.",
            Histogram.seconds, merges.durations)
        text.counter(
            "lamina_merged_bytes_total", "Uncompressed bytes that were verified and written to the store.",
            merges.landedBytes)
        text.counter("lamina_fetched_bytes_total", "Compressed bytes that were fetched.", merges.fetchedBytes)
        text.gauge("lamina_in_flight_bytes", "Bytes on their way between source and store.", merges.inFlightBytes)
        text.family(
            "lamina_fetch_errors_total", .counter,
            "Bytes that could not be had or were not what they should be, by cause; also where another try brought them.",
            by: "cause", FetchFailure.allCases.map { ($0.rawValue, merges.failures[$0] ?? 0) })
        text.counter(
            "lamina_fetch_retries_total", "Requests to registries that were made again after a failure.",
            retries.value)
    }

    private func opens(_ text: inout MetricsText) {
        let status = status()
        let opens = status.opens
        text.gauge("lamina_passthrough", "Whether merged files are handed to the kernel.", status.passthrough ? 1 : 0)
        text.family(
            "lamina_opens_total", .counter, "Opens of files, by who reads them: the kernel, or lamina.", by: "mode",
            [("passthrough", opens.passthrough), ("cached", opens.cached)])
        text.counter("lamina_opens_waited_total", "Opens that waited for the merge of their file.", opens.waited)
        text.counter("lamina_reads_total", "Reads that lamina answered itself.", opens.reads)
        text.counter("lamina_read_bytes_total", "Bytes of those reads.", opens.readBytes)
        text.counter("lamina_lookups_total", "Names that the kernel asked for.", opens.lookups)
        text.gauge("lamina_backing_files", "Files that are registered with the kernel now.", opens.backingFiles)
    }

    private func store(_ text: inout MetricsText) throws {
        let usage = try usage.current { try store.index.cacheUsage() }
        text.gauge("lamina_images", "Images in the index.", usage.images)
        text.gauge("lamina_layers", "Layers in the index.", usage.layers)
        text.gauge("lamina_mounts", "Images that are mounted.", try store.index.mounts().count)
        text.gauge("lamina_contents", "Distinct files in the index.", usage.contents)
        text.gauge("lamina_contents_merged", "Those of them whose bytes are all in the store.", usage.mergedContents)
        text.gauge("lamina_store_logical_bytes", "Bytes of all files of all layers.", usage.logicalBytes)
        text.gauge("lamina_store_allocated_bytes", "Bytes that the store takes on disk.", usage.allocatedBytes)
        text.gauge("lamina_store_shared_bytes", "Bytes that sharing files saves.", usage.sharedBytes)
        let space = try FilesystemFacts.space(ofDirectory: root)
        text.gauge("lamina_store_filesystem_size_bytes", "Size of the store's file system.", space.total)
        text.gauge("lamina_store_filesystem_free_bytes", "Bytes of it that can still be written.", space.free)
    }

    private func trust(_ text: inout MetricsText) throws {
        let chains = try store.index.chainCounts()
        text.family(
            "lamina_chains", .gauge, "Layers of containerd's chains, by what is known of them.", by: "state",
            ChainState.allCases.map { (label: $0.rawValue, value: UInt64(clamping: chains[$0] ?? 0)) })
        text.gauge("lamina_quarantined_layers", "Layers that nothing is served of.", try store.index.quarantine().count)
    }

    private func sealing(_ text: inout MetricsText) throws {
        let status = seals.status()
        text.gauge("lamina_seal_possible", "Whether sealed images are mounted on this machine.", status.on ? 1 : 0)
        if let reason = status.reason {
            text.info("lamina_seal_off_info", "Why not.", [("reason", reason)])
        }
        text.gauge("lamina_sealed_images", "Chains of layers that have an image for the kernel.", status.chains)
        text.gauge("lamina_sealed_mounts", "Those of them that are mounted.", status.mounts)
        text.gauge("lamina_sealed_refused", "Chains that cannot be sealed.", status.refused)
        text.gauge(
            "lamina_sealed_bytes", "Bytes on disk that stay because sealed images that are mounted show them.",
            try sealedBytes.current { try store.index.sealedBytes() })
    }

    private func takeover(_ text: inout MetricsText) {
        let takeover = takeover.withLock { $0 }
        text.gauge(
            "lamina_took_over", "Whether this process took the mounts over from one before it.", takeover == nil ? 0 : 1
        )
        guard let takeover else { return }
        text.gauge(
            "lamina_takeover_duration_seconds", "How long it took to take the mounts over.", takeover.seconds)
        if let gap = takeover.secondsSinceEnd {
            text.gauge(
                "lamina_takeover_gap_seconds",
                "From the end of the process before until the mounts were answered again.",
                gap)
        }
    }

    /// With the names that every Prometheus client uses for them.
    private func process(_ text: inout MetricsText) {
        text.gauge(
            "process_start_time_seconds", "When the process started, in seconds since 1970.",
            startedAt.timeIntervalSince1970)
        if let seconds = ProcessFacts.processorSeconds {
            text.counter("process_cpu_seconds_total", "Processor time of the process.", seconds)
        }
        if let memory = ProcessFacts.memory {
            text.gauge("process_resident_memory_bytes", "Resident memory of the process.", memory.resident)
            text.gauge("process_virtual_memory_bytes", "Address space of the process.", memory.virtual)
        }
        if let count = ProcessFacts.openDescriptorCount {
            text.gauge("process_open_fds", "Descriptors that are open.", count)
        }
        if let limit = ProcessFacts.descriptorLimit {
            text.gauge("process_max_fds", "Descriptors that may be open.", limit)
        }
    }
}

/// How a server took over the mounts of the previous one.
struct TakeoverTimes: Sendable {
    var seconds: Double
    /// nil if the manager does not tell.
    var secondsSinceEnd: Double?
}
