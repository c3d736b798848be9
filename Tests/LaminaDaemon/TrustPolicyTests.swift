import Testing

@testable import LaminaDaemon

@Suite("a policy with exceptions by repository")
struct TrustPolicyTests {
    @Test(
        "takes the longest that fits, in whole components",
        arguments: [
            ("registry.example/team/app", true), ("registry.example/team", true), ("registry.example/teams/app", false),
            ("registry.example/team/open/app", false), ("registry.example/team/open/secret", true),
            ("other.example/team/app", false),
        ])
    func longest(place: String, expected: Bool) {
        let policy = RepositoryPolicy(
            standard: false, yes: ["registry.example/team", "registry.example/team/open/secret"],
            no: ["registry.example/team/open"])
        #expect(policy.holds(for: place) == expected)
        // Ends in a slash or not.
        let other = RepositoryPolicy(standard: true, yes: [], no: ["registry.example/"])
        #expect(other.holds(for: place) == !place.hasPrefix("registry.example/"))
    }

    @Test("is read from the configuration, of references as of sources")
    func configuration() throws {
        var configuration = Configuration()
        #expect(!configuration.requiresProof("registry.example/team/app:1"))
        #expect(!configuration.isolates("https://registry.example/team/app"))
        configuration.trust.chains = .proven
        configuration.trust.claimedRepositories = ["registry.example/team"]
        configuration.store.isolatedRepositories = ["registry.example"]
        #expect(!configuration.requiresProof("registry.example/team/app:1"))
        #expect(configuration.requiresProof("registry.example/other:1"))
        #expect(configuration.isolates("https://registry.example/team/app"))
        #expect(!configuration.isolates("http://127.0.0.1:5000/app") && !configuration.isolates("oci:/dir"))
        configuration.trust = .init()
        configuration.store.require = .diffID
        #expect(configuration.requiresProof("registry.example/team/app:1"))
    }
}
