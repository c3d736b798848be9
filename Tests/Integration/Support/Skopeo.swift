/// skopeo, with a policy of the tests: that of the machine (/etc/containers/policy.json) may be missing, or refuse what is not
/// signed.
enum Skopeo {
    @discardableResult
    static func copy(_ arguments: [String], in sandbox: Sandbox) throws -> Outcome {
        let policy = sandbox.directory + "/policy.json"
        try write(#"{"default": [{"type": "insecureAcceptAnything"}]}"#.utf8, to: policy)
        return try run(["skopeo", "--policy", policy, "copy"] + arguments).orThrow()
    }
}
