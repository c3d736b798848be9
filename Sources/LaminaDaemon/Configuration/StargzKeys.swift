/// What a configuration of stargz-snapshotter may hold beyond the keys that lamina shares with it, so that the same file serves
/// both: https://github.com/containerd/stargz-snapshotter, `fs/config/config.go` and `service/config.go`.
enum StargzKeys {
    /// Keys and tables of the root.
    static let root: Set<String> = [
        "http_cache_type", "http_cache_chunk_ttl_sec", "filesystem_cache_type", "resolve_result_entry_ttl_sec",
        "resolve_result_entry", "prefetch_size", "prefetch_timeout_sec", "prefetch_async_size", "noprefetch",
        "no_background_fetch", "debug", "allow_no_verification", "disable_verification", "max_concurrency",
        "no_prometheus", "log_file_access", "metrics_address", "metrics_network", "debug_address", "metrics_log_level",
        "ipfs", "blob", "kubeconfig_keychain", "cri_keychain", "snapshotter", "content_store",
        "image_verification", "fuse_manager", "fusemanager",
    ]

    static let fuse: Set<String> = ["attr_timeout", "entry_timeout", "negative_timeout", "log_fuse_operations"]

    static let directoryCache: Set<String> = ["max_lru_cache_entry", "max_cache_fds", "sync_add", "fadv_dontneed"]
}
