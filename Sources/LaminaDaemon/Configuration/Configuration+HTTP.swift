import LaminaOCI
import Logging

#if Containerd
    import LaminaContainerd
#endif

extension Configuration {
    /// How to reach registries, from the file and the environment.
    ///
    /// - Parameters:
    ///   - spoolDirectory: where the blobs of registries that know no ranges are kept while they are read.
    ///   - room: what is asked before they are.
    ///   - kept: what came along with the pulls of others.
    ///   - retried: counts the requests that are made again.
    func registries(
        spoolDirectory: String? = nil, room: SpoolRoom? = nil, kept: KeptCredentials? = nil, log: Logger,
        retried: EventCounter = EventCounter()
    ) -> Registries {
        var settings = RegistryClient.Settings()
        settings.spoolDirectory = spoolDirectory
        if let room {
            settings.reserveSpool = { try room.reserve($0, of: $1) }
            settings.releaseSpool = { room.release($0) }
        }
        settings.stallLimit = .seconds(resolver.requestTimeoutSeconds)
        settings.tryLimit = blob.maxRetries + 1
        settings.backoff = .milliseconds(blob.minWaitMilliseconds)
        settings.backoffLimit = .milliseconds(max(blob.maxWaitMilliseconds, blob.minWaitMilliseconds))
        settings.progressLimit = .seconds(blob.fetchingTimeoutSeconds)
        let limiter = LogLimiter()
        settings.onRetry = { failure, wait in
            retried.count()
            limiter.report("retry", failure) { more in
                let fields: Logger.Metadata = ["failure": "\(failure)", "wait": "\(wait)"]
                log.info("a registry is asked again", metadata: more.merging(fields) { $1 })
            }
        }
        settings.onFallThrough = { failure in
            retried.count()
            limiter.report("next", failure) { more in
                log.warning(
                    "the next server is asked instead", metadata: more.merging(["failure": "\(failure)"]) { $1 })
            }
        }
        var (hosts, credentials) = (
            resolver.hosts,
            CredentialStore(file: resolver.credentialsFile, kept: kept, cluster: clusterSecrets(log: log))
        )
        if resolver.readsContainersFiles {
            hosts.containers = .ofProcess()
            credentials.containersFiles = CredentialStore.podmanFiles()
        }
        return Registries(hosts: hosts, credentials: credentials, settings: settings)
    }

    /// The pull secrets of a cluster; nil if the cluster should not be asked.
    private func clusterSecrets(log: Logger) -> ClusterSecrets? {
        guard kubeconfigKeychain.isEnabled else { return nil }
        #if Containerd
            let path = kubeconfigKeychain.path
            return ClusterSecrets {
                log.warning("\($0)")
            } access: { () throws(OCIError) in
                try Kubeconfig.access(path: path)
            }
        #else
            log.warning("kubeconfig_keychain has no effect: this lamina was built without what is for clusters")
            return nil
        #endif
    }

    /// What came along with pulls by kubelet; nil if nothing of it should be kept.
    ///
    /// - Parameter root: the directory of the store, which has the file.
    func keptCredentials(root: String, log: Logger) -> KeptCredentials? {
        guard criKeychain.isEnabled else { return nil }
        return KeptCredentials(path: root + "/credentials.json") { log.warning("\($0)") }
    }

    /// Whether `[http] plain` lists the registry of a reference.
    func speaksPlainHTTP(_ reference: String) -> Bool {
        guard !http.plain.isEmpty, case .registry(let host, _)? = try? ImageReference(parsing: reference).place else {
            return false
        }
        return http.plain.contains(host)
    }
}
