import LaminaOCI

/// Every key that lamina knows: its own, and those of stargz-snapshotter's `config.toml`, so that the same file serves both.
enum ConfigurationKeys {
    /// Those that have an effect, in the order of the sample.
    static let own: [ConfigurationKey] = [
        .boolean("fuse.passthrough", \.fuse.passthrough),
        .integer("fuse.merge_buffer_size", \.fuse.mergeBufferSize, minimum: 1),
        .integer("fuse.merge_worker_count", \.fuse.mergeWorkerCount, minimum: 1),
        .integer("fuse.lazy_threshold", \.fuse.lazyThreshold, minimum: 0),
        .integer("fuse.attr_timeout", \.fuse.attributeTimeout, minimum: 0),
        .integer("fuse.entry_timeout", \.fuse.entryTimeout, minimum: 0),
        .boolean("fuse.busy_wait", \.fuse.busyWait),
        .boolean("directory_cache.direct", \.directoryCache.direct),
        .path("store.root", \.store.root, standard: Configuration.defaultRoot),
        .integer("store.max_bytes", \.store.maxBytes, minimum: 0),
        .integer("store.max_toc_bytes", \.store.maxTOCBytes, minimum: 1),
        .integer("store.max_layer_entries", \.store.maxLayerEntries, minimum: 1),
        .integer("store.max_image_entries", \.store.maxImageEntries, minimum: 1),
        .word("store.require", \.store.require),
        .word("store.verification", \.store.verification),
        .word("store.gzip", \.store.gzip),
        .key("store.group", .string) {
            .string($0.store.group ?? "")
        } set: {
            if case .string(let name) = $1 { $0.store.group = name.isEmpty ? nil : name }
        },
        .word("store.content_sharing_policy", \.store.contentSharing),
        .strings("store.shared_repositories", \.store.sharedRepositories),
        .strings("store.isolated_repositories", \.store.isolatedRepositories),
        .word("trust.chains", \.trust.chains),
        .strings("trust.claimed_repositories", \.trust.claimedRepositories),
        .strings("trust.proven_repositories", \.trust.provenRepositories),
        .word("seal.mode", \.seal.mode),
        .path("podman.images", \.podman.images),
        .word("podman.ids", \.podman.ids),
        .strings("podman.claimed_repositories", \.podman.claimedRepositories),
        .strings("podman.proven_repositories", \.podman.provenRepositories),
        .strings("podman.graph_roots", \.podman.graphRoots),
        logLevel,
        .key("metrics.address", .address) {
            .string($0.metrics.address?.description ?? "")
        } set: {
            if case .string(let text) = $1 { $0.metrics.address = ListenAddress(text) }
        },
        .path("snapshotter.address", \.snapshotter.address),
        .boolean("snapshotter.background_merge", \.snapshotter.mergesInBackground),
        .boolean("snapshotter.prefetch", \.snapshotter.prefetches),
        .key("snapshotter.containerd_address", .path) {
            .string($0.snapshotter.containerdAddress)
        } set: {
            guard case .string(let path) = $1 else { return }
            $0.snapshotter.containerdAddress =
                path.isEmpty ? Configuration.CRIKeychain.defaultImageServicePath : path
        },
        .word("snapshotter.plain_layers", \.snapshotter.plainLayers),
        .strings("snapshotter.streamed_namespaces", \.snapshotter.streamedNamespaces),
        .strings("snapshotter.unpacked_namespaces", \.snapshotter.unpackedNamespaces),
        .strings("snapshotter.streamed_repositories", \.snapshotter.streamedRepositories),
        .strings("snapshotter.unpacked_repositories", \.snapshotter.unpackedRepositories),
        .boolean("cri_keychain.enable_keychain", \.criKeychain.isEnabled),
        .key("cri_keychain.image_service_path", .path) {
            .string($0.criKeychain.imageServicePath)
        } set: {
            guard case .string(let path) = $1 else { return }
            $0.criKeychain.imageServicePath =
                path.isEmpty ? Configuration.CRIKeychain.defaultImageServicePath : path
        },
        .boolean("kubeconfig_keychain.enable_keychain", \.kubeconfigKeychain.isEnabled),
        .path("kubeconfig_keychain.kubeconfig_path", \.kubeconfigKeychain.path),
        .key("resolver.config_path", .paths) {
            .string($0.resolver.hosts.directories.joined(separator: ":"))
        } set: {
            guard case .string(let text) = $1 else { return }
            $0.resolver.hosts.directories = text.split(separator: ":").map(String.init)
        },
        .path("resolver.creds_file", \.resolver.credentialsFile),
        .boolean("resolver.containers_files", \.resolver.readsContainersFiles),
        requestTimeout,
        .integer(
            "blob.max_retries", \.blob.maxRetries, minimum: 0, zero: Configuration().blob.maxRetries),
        .integer(
            "blob.min_wait_msec", \.blob.minWaitMilliseconds, minimum: 0, zero: Configuration().blob.minWaitMilliseconds
        ),
        .integer(
            "blob.max_wait_msec", \.blob.maxWaitMilliseconds, minimum: 0, zero: Configuration().blob.maxWaitMilliseconds
        ),
        .integer(
            "blob.fetching_timeout_sec", \.blob.fetchingTimeoutSeconds, minimum: 0,
            zero: Configuration().blob.fetchingTimeoutSeconds),
        .strings("http.plain", \.http.plain),
    ]

    static let all = own + StargzKeys.all

    /// By name.
    static let byName = Dictionary(uniqueKeysWithValues: all.map { ($0.name, $0) })

    /// The tables of keys; in `resolver.host` the keys are registries.
    static let tables = Set(all.compactMap { key in key.name.lastIndex(of: ".").map { String(key.name[..<$0]) } })
        .union([mirrors])

    /// The table with registries as keys, `[[resolver.host."H".mirrors]]`.
    static let mirrors = "resolver.host"

    private static let logLevel = ConfigurationKey.key("log.level", .word(LogLevel.names)) {
        .string(LogLevel.name(of: $0.log.level))
    } set: {
        if case .string(let word) = $1, let level = LogLevel.parse(word) { $0.log.level = level }
    }

    /// 0 is the default there, and a negative number means no limit, which lamina does not have.
    private static let requestTimeout: ConfigurationKey = {
        var setting = ConfigurationKey.Setting {
            .integer(Int64($0.resolver.requestTimeoutSeconds))
        } set: {
            guard case .integer(let seconds) = $1 else { return }
            let standard = Configuration().resolver.requestTimeoutSeconds
            $0.resolver.requestTimeoutSeconds = seconds > 0 ? Int(clamping: seconds) : standard
        }
        setting.remark = {
            guard case .integer(let seconds) = $0, seconds < 0 else { return nil }
            return "a registry that says nothing is always asked again some time"
        }
        return ConfigurationKey(
            name: "resolver.request_timeout_sec", kind: .integer(minimum: .min), effect: .setting(setting))
    }()
}
