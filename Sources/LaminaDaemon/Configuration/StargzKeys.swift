/// The keys of stargz-snapshotter's `config.toml` for which lamina has no setting of its own, with their types there:
/// https://github.com/containerd/stargz-snapshotter, `fs/config/config.go`, `service/config.go` and
/// `cmd/containerd-stargz-grpc/main.go`.
enum StargzKeys {
    static let all: [ConfigurationKey] = translated + unused

    /// Those that have the same meaning as keys of lamina.
    private static let translated = [
        ConfigurationKey(
            name: "debug", kind: .boolean,
            effect: .translated(to: "log.level") { $0 == .boolean(true) ? .string("debug") : nil }),
        ConfigurationKey(
            name: "metrics_address", kind: .address,
            effect: .translated(to: "metrics.address") { $0 == .string("") ? nil : $0 }),
        ConfigurationKey(
            name: "no_background_fetch", kind: .boolean,
            effect: .translated(to: "snapshotter.background_merge", negated)),
        ConfigurationKey(
            name: "noprefetch", kind: .boolean, effect: .translated(to: "snapshotter.prefetch", negated)),
    ]

    private static let negated: @Sendable (ConfigurationValue) -> ConfigurationValue? = {
        if case .boolean(let value) = $0 { .boolean(!value) } else { nil }
    }

    /// A number of any sign: lamina does not use it.
    private static let integer = ConfigurationKind.integer(minimum: .min)

    private static let cache =
        "bytes go to the files of the store and nowhere else, so that there is no cache to set up"
    private static let resolved = "what an image is made of stays in the index, and is not looked up again"
    private static let prefetching = "what an image marks to be fetched first is fetched first, whatever its size"
    private static let verification = "every byte is verified before it is served"
    private static let metrics = "metrics are at the control socket, and where metrics.address says"
    private static let ranges = "ranges are as long as the chunks that are missing, and as the connection is fast"
    private static let holder = "mounts outlive the server by systemd or 'lamina serve --supervise'"

    private static let unused: [ConfigurationKey] = [
        .unused("http_cache_type", .string, cache),
        .unused("http_cache_chunk_ttl_sec", integer, cache),
        .unused("filesystem_cache_type", .string, cache),
        .unused("resolve_result_entry_ttl_sec", integer, resolved),
        .unused("resolve_result_entry", integer, resolved),
        .unused("prefetch_size", integer, prefetching),
        .unused("prefetch_timeout_sec", integer, "a mount does not wait for what is fetched first"),
        .unused("prefetch_async_size", integer, "a mount does not wait for what is fetched first"),
        .unused("allow_no_verification", .boolean, verification),
        .unused("disable_verification", .boolean, verification),
        .unused("max_concurrency", integer, "fuse.merge_worker_count says how many fetches run at the same time"),
        .unused("no_prometheus", .boolean, metrics),
        .unused("log_file_access", .boolean, "the index says what was opened: docs/inspecting.md"),
        .unused("debug_address", .string, "'lamina debug bundle' gathers what there is to see"),
        .unused("ipfs", .boolean, "layers come from registries and OCI layout directories"),
        .unused("metadata_store", .string, "metadata is in the index, which is one SQLite database"),

        .unused("blob.valid_interval", integer, "a registry is not asked about what is in the store"),
        .unused("blob.check_always", .boolean, "a registry is not asked about what is in the store"),
        .unused("blob.chunk_size", integer, "the layer's table of contents says what its chunks are"),
        .unused("blob.prefetch_chunk_size", integer, ranges),
        .unused("blob.force_single_range_mode", .boolean, "a request is always for one range"),

        .unused("directory_cache.max_lru_cache_entry", integer, cache),
        .unused("directory_cache.max_cache_fds", integer, "open files are kept as far as the process may have them"),
        .unused("directory_cache.sync_add", .boolean, "what has landed is made durable every few seconds"),
        .unused(
            "directory_cache.fadv_dontneed", .boolean,
            "large chunks that nobody waits for are written past the page cache anyway"),

        .unused("cri_keychain.listen_path", .string, "CRI's image service is at the snapshotter's own socket"),

        .unused(
            "snapshotter.allow_invalid_mounts_on_restart", .boolean,
            "a mount whose registry is away comes back all the same, and serves what is in the store"),

        .unused("fuse_manager.enable", .boolean, holder),
        .unused("fuse_manager.address", .string, holder),
        .unused("fuse_manager.path", .string, holder),
        .unused("fuse_manager.metrics_address", .string, holder),
    ]

    /// In `[[resolver.host."H".mirrors]]`.
    static let mirrorTimeout = "resolver.request_timeout_sec holds for all servers"
}
