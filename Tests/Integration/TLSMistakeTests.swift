import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Servers that speak TLS to a client that does not, as found in the field: those that answer in words are in
    /// `RegistryAnswerTests`.
    @Suite("a server that speaks TLS, asked without", Requirements.tools("python3", "openssl"))
    struct TLSMistakes {
        /// `DIRECTORY KIND`: a TLS server that prints its port. `hangs up`: resets clients without TLS; `alerts`: first sends
        /// TLS's alert for that; `plain`: speaks no TLS, and closes each connection without an answer.
        private static let server = """
            import os, socket, ssl, sys, threading
            directory, kind = sys.argv[1:]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(directory + "/certificate", directory + "/key")
            listener = socket.create_server(("127.0.0.1", 0))
            print(listener.getsockname()[1], flush=True)
            def serve(client):
                with client:
                    client.settimeout(30)
                    first = client.recv(1, socket.MSG_PEEK)
                    if kind == "plain": return
                    if kind == "alerts" and first == b"G":
                        client.sendall(bytes([21, 3, 1, 0, 2, 2, 70]))
                        return
                    try:
                        with context.wrap_socket(client, server_side=True) as secure: secure.recv(1)
                    except (OSError, ssl.SSLError): pass
            while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
            """

        @Test(
            "is told as that, and is no error that passes; one that just hangs up is",
            arguments: [("hangs up", 78), ("alerts", 78), ("plain", 75)] as [(String, Int32)])
        func told(kind: String, code: Int32) throws {
            try Sandbox.with { sandbox in
                try run([
                    "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=localhost",
                    "-keyout", sandbox.directory + "/key", "-out", sandbox.directory + "/certificate",
                ]).orThrow()
                let server = try sandbox.startProgram(["python3", "-c", Self.server, sandbox.directory, kind])
                #expect(eventually { server.outputSoFar.hasSuffix("\n") })
                let outcome = try sandbox.attempt("pull", "127.0.0.1:\(server.outputSoFar.dropLast())/x/y:1")
                #expect(outcome.exitCode == code, "\(outcome)")
                #expect(
                    outcome.errors.contains("the server speaks TLS, and was asked without") == (code == 78),
                    "\(outcome)")
            }
        }
    }
}
