/// How to reach registries: which servers, with which credentials, how patiently. What is learnt on the way (tokens, redirects)
/// is shared by all clients that come from the same value and its copies.
public struct Registries: Sendable {
    public let hosts: HostsConfiguration
    public let credentials: CredentialStore
    public let settings: RegistryClient.Settings
    private let session: RegistrySession

    /// Without arguments: nothing is configured, and there are no credentials.
    public init(
        hosts: HostsConfiguration = .none, credentials: CredentialStore = .none,
        settings: RegistryClient.Settings = RegistryClient.Settings()
    ) {
        self.hosts = hosts
        self.credentials = credentials
        self.settings = settings
        session = RegistrySession(credentials: credentials)
    }

    /// Looks for the credentials of an image's registry in this file first, from now on and for all copies of this value:
    /// what is fetched of the image later needs them too.
    ///
    /// - Throws: `badConfiguration` for a file that is not there or cannot be read, whether or not anybody will ask for it.
    public func use(credentialsFile: String, for image: ImageReference) throws(OCIError) {
        try CredentialStore.check(credentialsFile)
        guard case .registry(let host, _) = image.place else { return }
        session.authorizer.use(file: credentialsFile, for: host)
    }

    /// Nothing is connected yet.
    ///
    /// - Parameters:
    ///   - registry: as in references.
    ///   - plainHTTP: HTTP in clear also to another machine, where no file says otherwise; this machine's get it anyway.
    /// - Throws: `badConfiguration` for a `hosts.toml` that is wrong.
    public func client(for registry: String, plainHTTP: Bool) throws(OCIError) -> RegistryClient {
        RegistryClient(
            endpoint: .init(registry: registry, plainHTTP: plainHTTP),
            hosts: try hosts.hosts(for: registry, plainHTTP: plainHTTP), settings: settings, session: session)
    }
}
