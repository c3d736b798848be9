import LaminaOCI

/// A choice between two with exceptions by registry and repository, as containers-policy.json(5) has them: the longest that fits counts.
struct RepositoryPolicy: Sendable {
    /// What holds where no exception fits.
    var standard: Bool
    /// `registry`, `registry/repository`, or what a repository begins with.
    var yes: [String]
    var no: [String]

    /// - Parameter place: `registry/repository`, or the directory of a layout.
    func holds(for place: String) -> Bool {
        func longest(_ prefixes: [String]) -> Int? {
            prefixes.filter { Self.fits($0, place) }.map(\.utf8.count).max()
        }
        switch (longest(yes), longest(no)) {
        case (nil, nil): return standard
        case (_?, nil): return true
        case (nil, _?): return false
        // If both lists have the same prefix, the exception wins over the default: somebody wrote it on purpose.
        case (let yes?, let no?): return yes == no ? !standard : yes > no
        }
    }

    /// Whether a place is this one, or within it: whole components only.
    private static func fits(_ prefix: String, _ place: String) -> Bool {
        let prefix = prefix.hasSuffix("/") ? String(prefix.dropLast()) : prefix
        return !prefix.isEmpty && (place == prefix || place.hasPrefix(prefix + "/"))
    }
}

extension Configuration {
    /// Whether the chains of an image are committed only when they are proven.
    func requiresProof(_ reference: String) -> Bool {
        if store.require == .diffID { return true }
        let policy = RepositoryPolicy(
            standard: trust.chains == .proven, yes: trust.provenRepositories, no: trust.claimedRepositories)
        guard let parsed = try? ImageReference(parsing: reference) else { return policy.standard }
        switch parsed.place {
        case .registry(let host, let repository): return policy.holds(for: "\(host)/\(repository)")
        case .layout(let directory): return policy.holds(for: directory)
        }
    }

    /// Whether plain layers are streamed for a client of containerd's: by the repository, else by the namespace, else as all others.
    func streamsPlainLayers(of reference: String, in namespace: String) -> Bool {
        let isStreamed = snapshotter.streamedNamespaces.contains(namespace)
        let isUnpacked = snapshotter.unpackedNamespaces.contains(namespace)
        let standard = isStreamed == isUnpacked ? snapshotter.plainLayers == .stream : isStreamed
        let policy = RepositoryPolicy(
            standard: standard, yes: snapshotter.streamedRepositories, no: snapshotter.unpackedRepositories)
        guard case .registry(let host, let repository)? = (try? ImageReference(parsing: reference))?.place else {
            return false
        }
        return policy.holds(for: "\(host)/\(repository)")
    }

    /// Whether the files of layers from a source are its repository's alone.
    ///
    /// - Parameter location: as the index stores it: `https://registry/repository`, `oci:/directory`.
    func isolates(_ location: String) -> Bool {
        let policy = RepositoryPolicy(
            standard: store.contentSharing == .isolated, yes: store.isolatedRepositories, no: store.sharedRepositories)
        if let end = location.firstRange(of: "://") { return policy.holds(for: String(location[end.upperBound...])) }
        return policy.holds(for: location.hasPrefix("oci:") ? String(location.dropFirst(4)) : location)
    }
}
