import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("the pull secrets of a cluster")
    struct PullSecrets {
        /// `CERTIFICATE KEY AUTHORITY TOKEN`: an API server that requires a certificate or a token, and lists what is on its
        /// standard input.
        private static let api = """
            import base64, http.server, json, ssl, sys
            certificate, key, authority, token = sys.argv[1:]
            items = [
                {"metadata": {"namespace": "team", "name": name},
                 "data": {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()}}
                for name, config in json.loads(sys.stdin.readline()).items()]
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    known = bool(self.connection.getpeercert()) or self.headers["Authorization"] == "Bearer " + token
                    wanted = self.path.startswith("/api/v1/secrets?") and "dockerconfigjson" in self.path
                    body = json.dumps({"metadata": {}, "items": items}).encode() if known and wanted else b"{}"
                    self.send_response(200 if known and wanted else 403)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                def log_message(self, *words): pass
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_OPTIONAL
            server.socket = context.wrap_socket(server.socket, server_side=True)
            print(server.server_port, flush=True)
            server.serve_forever()
            """

        @Test(
            "a private image is pulled with what the cluster's API lists, shown a token or a certificate in a kubeconfig",
            arguments: ["token", "certificate", "stranger"])
        func pull(identity: String) throws {
            let authority = try TestAuthority()
            defer { removeTree(authority.directory) }
            let image = try Shared.small.get()
            let registry = try RegistryFixture(
                guarded: .init(htpasswd: RegistryPulls.htpasswd), serving: Shared.registry.get())
            defer { registry.stop() }
            try Sandbox.with { sandbox in
                func encoded(_ path: String) throws -> String {
                    try run(["base64", "-w0", path]).orThrow().output
                }
                let secrets = """
                    {"old": {"auths": {"\(registry.host)": {"username": "tester", "password": "wrong:word"}}},
                     "other": {"auths": {"registry.example": {"username": "tester", "password": "pass:word"}}},
                     "young": {"auths": {"http://\(registry.host)/v2/": {"username": "tester", "password": "pass:word"}}}}
                    """
                let input = sandbox.directory + "/secrets.json"
                try write(secrets.split(separator: "\n").joined().utf8, to: input)
                let server = authority.server
                let api = try sandbox.startProgram([
                    "/bin/sh", "-c", "exec python3 -c \"$0\" \"$1\" \"$2\" \"$3\" t0ken <\"$4\"", Self.api, server.path,
                    server.key, authority.certificate, input,
                ])
                #expect(eventually { api.outputSoFar.hasSuffix("\n") }, "\(api.errorsSoFar)")
                let port = api.outputSoFar.split(separator: "\n").first.map(String.init) ?? ""
                let user =
                    switch identity {
                    case "token": "{token: t0ken}"
                    case "certificate":
                        try """
                        {client-certificate-data: \(encoded(authority.client.path)), client-key-data: \
                        \(encoded(authority.client.key))}
                        """
                    default: "{token: other}"
                    }
                let kubeconfig = try """
                current-context: here
                contexts: [{name: here, context: {cluster: mine, user: me}}]
                clusters:
                - name: mine
                  cluster: {server: "https://127.0.0.1:\(port)", certificate-authority-data: \
                \(encoded(authority.certificate))}
                users: [{name: me, user: \(user)}]
                """
                try write(kubeconfig.utf8, to: sandbox.directory + "/kubeconfig")
                let config = sandbox.directory + "/config.toml"
                try write(
                    """
                    [kubeconfig_keychain]
                    enable_keychain = true
                    kubeconfig_path = "\(sandbox.directory)/kubeconfig"
                    """.utf8, to: config)
                let reference = "\(registry.host)/small:latest"
                let outcome = try sandbox.start(["pull", reference, "--config", config]).wait(seconds: 120)
                if identity == "stranger" {
                    #expect(outcome.exitCode == 77, "\(outcome)")
                    #expect(outcome.errors.contains("answered 403: whom"), "\(outcome)")
                } else {
                    try outcome.orThrow()
                    let doctor = try sandbox.start(["doctor", reference, "--config", config]).wait(seconds: 60)
                        .orThrow()
                    #expect(doctor.output.contains("the secret team/young"), "\(doctor.output)")
                    let mount = try sandbox.mount(reference)
                    try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                }
                let found = try run(["grep", "-rlE", "pass:word|t0ken", sandbox.root])
                #expect(found.output.isEmpty, "\(found.output)")
                #expect(!outcome.errors.contains("wrong:word"))
            }
        }
    }
}
