/// How to reach registries: which servers, with which credentials, how patiently. All clients of the same value and its copies
/// share what is learnt on the way (tokens, redirects).
public struct Registries: Sendable {
    public let hosts: HostsConfiguration
    public let credentials: CredentialStore
    public let settings: RegistryClient.Settings
    private let session: RegistrySession

    /// Without arguments there is no configuration, and there are no credentials.
    public init(
        hosts: HostsConfiguration = .none, credentials: CredentialStore = .none,
        settings: RegistryClient.Settings = RegistryClient.Settings()
    ) {
        self.hosts = hosts
        self.credentials = credentials
        self.settings = settings
        session = RegistrySession(credentials: credentials)
    }

    /// Looks for the credentials of an image's registry in this file first, from now on and for all copies of this value,
    /// because later fetches of the image need them too.
    ///
    /// - Throws: `badConfiguration` for a file that does not exist or cannot be read, even if it is never needed.
    public func use(credentialsFile: String, for image: ImageReference) throws(OCIError) {
        try CredentialStore.check(credentialsFile)
        guard case .registry(let host, _) = image.place else { return }
        session.authorizer.use(file: credentialsFile, for: host)
    }

    /// Nothing is connected yet.
    ///
    /// - Parameters:
    ///   - registry: as in references.
    ///   - repository: that is asked for: registries.conf may name servers for a part of a registry.
    ///   - plainHTTP: HTTP without TLS also to another machine, if no file says otherwise; for this machine it is the default.
    /// - Throws: `badConfiguration` for a wrong `hosts.toml` or `registries.conf`, and for what that blocks.
    public func client(for registry: String, repository: String? = nil, plainHTTP: Bool) throws(OCIError)
        -> RegistryClient
    {
        RegistryClient(
            endpoint: .init(registry: registry, plainHTTP: plainHTTP),
            hosts: try hosts.hosts(for: registry, repository: repository, plainHTTP: plainHTTP), settings: settings,
            session: session)
    }
}
