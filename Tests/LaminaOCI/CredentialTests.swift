import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaOCI

@Suite("Credentials")
struct CredentialTests {
    private func config(_ text: String) throws -> DockerConfig {
        try DockerConfig(parsing: Array(text.utf8), path: "/c.json")
    }

    @Test("auths are found by host and by the beginning of the repository, whatever docker writes around the host")
    func auths() throws {
        let auth = Base64.encode("user:pass:word\0\0".utf8)
        let found = try config(
            """
            {"auths": {"https://index.docker.io/v1/": {"auth": "\(auth)"}, "Reg.example:5000": {"username": "u", "password": "p"},
              "http://old.example/v2/": {"identitytoken": "it", "auth": "\(auth)"}, "q.io/team": {"registrytoken": "rt"},
              "empty.example": {}}, "HttpHeaders": {"a": "b"}}
            """)
        #expect(
            found.credentials(for: "registry-1.docker.io", repository: "library/x")
                == .basic(user: "user", password: Secret("pass:word")))
        #expect(found.credentials(for: "reg.example:5000", repository: "a") == .basic(user: "u", password: Secret("p")))
        #expect(found.credentials(for: "old.example", repository: "a") == .identityToken(Secret("it")))
        #expect(found.credentials(for: "q.io", repository: "team/app") == .registryToken(Secret("rt")))
        #expect(found.credentials(for: "q.io", repository: "other/app") == nil)
        #expect(found.credentials(for: "reg.example", repository: "a") == nil)
        #expect(found.credentials(for: "empty.example", repository: "a") == nil)
    }

    @Test("what is wrong in the file is told without what is secret in it")
    func wrongFiles() throws {
        for text in [
            "[]", "{", "null x", #"{"auths": []}"#, #"{"auths": {"h": {"auth": "s3cret!"}}}"#,
            #"{"credHelpers": {"h": 1}}"#,
            #"{"auths": {"h": {"auth": "\#(Base64.encode("s3cretWithoutColon".utf8))"}}}"#,
        ] {
            let error = #expect(throws: OCIError.self, "\(text)") { try config(text) }
            #expect(error?.code == .badConfiguration)
            #expect(error?.description.contains("/c.json") == true)
            #expect(error?.description.contains("s3cret") == false)
        }
    }

    @Test("an empty file says nothing, and base64 may be broken into lines, as docker reads it")
    func asDocker() throws {
        for text in ["", "\n", " \t\r\n"] { #expect(try config(text).auths.isEmpty) }
        // As coreutils' base64 breaks it, with its last line's end.
        let auth = Base64.encode(("user:" + String(repeating: "p", count: 70)).utf8)
        let broken = auth.prefix(76) + "\\n" + auth.dropFirst(76) + "\\r\\n"
        let found = try config(#"{"auths": {"h": {"auth": "\#(broken)"}}}"#)
        #expect(
            found.credentials(for: "h", repository: "x")
                == .basic(user: "user", password: Secret(String(repeating: "p", count: 70))))
    }

    @Test("a file that somebody names has to be there, whoever asks for credentials")
    func namedFile() throws {
        let root = try Access.directory(["bad.json": "{", "good.json": "{}"])
        defer { removeTree(root) }
        for image in ["127.0.0.1:1/x:y", "oci:/nowhere:x"].map({ try? ImageReference(parsing: $0) }) {
            let image = try #require(image)
            for name in ["none.json", "bad.json"] {
                let error = #expect(throws: OCIError.self) {
                    try Registries().use(credentialsFile: "\(root)/\(name)", for: image)
                }
                #expect(error?.code == .badConfiguration && error?.message.contains("\(root)/\(name)") == true)
            }
            try Registries().use(credentialsFile: root + "/good.json", for: image)
        }
    }

    @Test("base64 is what RFC 4648 says, with padding or without")
    func base64() {
        for (plain, text) in [
            ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
            ("\u{FF}\u{FE}", "w7/Dvg=="),
        ] {
            #expect(Base64.encode(plain.utf8) == text)
            #expect(Base64.decode(text) == Array(plain.utf8))
            #expect(Base64.decode(String(text.prefix { $0 != "=" })) == Array(plain.utf8))
        }
        #expect(Base64.decode("a") == nil)
        #expect(Base64.decode("a-b_") == nil)
    }

    @Test("a secret does not print itself, in whatever it is put")
    func secrets() {
        let secret = Secret("hunter2")
        let text =
            "\(secret) \(String(reflecting: secret)) \(Credentials.basic(user: "u", password: secret)) \([secret]) \(Optional(secret) as Any)"
        var dumped = ""
        dump(Credentials.identityToken(secret), to: &dumped)
        #expect(!(text + dumped).contains("hunter2"))
        #expect(secret.removed(from: "no hunter2 here") == "no … here")
    }

    @Test("challenges are read as RFC 9110 writes them")
    func challenges() {
        let bearer = AuthChallenge(
            scheme: "bearer",
            parameters: ["realm": "https://a/t?x=1", "service": "s, \"1\"", "scope": "repository:a:pull"])
        #expect(
            AuthChallenge.parse(#"Bearer realm="https://a/t?x=1",service="s, \"1\"" , scope = "repository:a:pull""#)
                == [bearer])
        #expect(
            AuthChallenge.parse(#"Basic realm="x", Bearer realm=y,error=insufficient_scope"#) == [
                AuthChallenge(scheme: "basic", parameters: ["realm": "x"]),
                AuthChallenge(scheme: "bearer", parameters: ["realm": "y", "error": "insufficient_scope"]),
            ])
        #expect(AuthChallenge.parse("").isEmpty)
        #expect(AuthChallenge.parse("Bearer realm=\"unfinished").first?.parameters["realm"] == "unfinished")
        var random = SeededGenerator(seed: 9)
        for _ in 0..<2000 {
            let letters = Array("Bearer realm=\"\\,= \u{7F}")
            let text = (0..<Int(random.next() % 60)).map { _ in letters[Int(random.next() % UInt64(letters.count))] }
            // It ends, and does not produce more than there is.
            #expect(AuthChallenge.parse(String(text)).count <= text.count)
        }
    }

    // MARK: Helpers

    /// Runs `body` with a directory of helpers first in PATH.
    private func withHelpers(_ scripts: [String: String], _ body: (String) throws -> Void) throws {
        let directory = try temporaryDirectory("helpers")
        defer { removeTree(directory) }
        for (name, script) in scripts {
            let path = "\(directory)/docker-credential-\(name)"
            let file = try File(path, O_WRONLY | O_CREAT, mode: 0o755)
            let bytes = Array("#!/bin/sh\n\(script)\n".utf8)
            try bytes.withUnsafeBytes { try file.write($0, at: 0) }
        }
        let old = getenv("PATH").map { String(cString: $0) } ?? ""
        setenv("PATH", "\(directory):\(old)", 1)
        defer { setenv("PATH", old, 1) }
        try body(directory)
    }

    @Test("helpers are asked by the documented protocol, and one that fails or hangs is named and ended")
    func helpers() throws {
        let scripts = [
            "good": #"read -r s; printf '{"ServerURL":"%s","Username":"%s","Secret":"pw"}' "$s" "$1-$s""#,
            "token": #"cat >/dev/null; echo '{"Username":"<token>","Secret":"it"}'"#,
            "none": "echo 'credentials not found in native keychain'; exit 1",
            "broken": "echo s3cret; exit 3", "garbage": "echo s3cret", "hangs": "sleep 100",
            "deaf": #"exec 0<&-; echo '{"Username":"u","Secret":"pw"}'"#, "loud": "yes s3cret",
        ]
        try withHelpers(scripts) { directory in
            func ask(_ name: String, _ host: String = "h:1") throws -> Credentials? {
                try CredentialHelper(name: name, timeLimit: .seconds(name == "hangs" ? 1 : 30)).credentials(for: host) {
                    false
                }
            }
            #expect(try ask("good") == .basic(user: "get-h:1", password: Secret("pw")))
            #expect(
                try ask("good", "registry-1.docker.io")
                    == .basic(user: "get-https://index.docker.io/v1/", password: Secret("pw")))
            #expect(try ask("token") == .identityToken(Secret("it")))
            #expect(try ask("none") == nil)
            #expect(try ask("deaf") == .basic(user: "u", password: Secret("pw")))
            let clock = ContinuousClock()
            for name in ["broken", "garbage", "hangs", "loud", "missing", "../x", ""] {
                let began = clock.now
                let error = #expect(throws: OCIError.self, "\(name)") { try ask(name) }
                #expect(error?.code == .badConfiguration && error?.description.contains("s3cret") == false)
                #expect(error?.description.contains(name) == true)
                #expect(clock.now - began < .seconds(20), "\(name)")
            }
            // The file names helpers for one registry and for the others.
            let path = directory + "/config.json"
            let text =
                #"{"credsStore": "none", "credHelpers": {"h:1": "good"}, "auths": {"k:2": {"username": "u", "password": "f"}}}"#
            let bytes = Array(text.utf8)
            let file = try File(path, O_WRONLY | O_CREAT)
            try bytes.withUnsafeBytes { try file.write($0, at: 0) }
            let store = CredentialStore(file: nil, defaultFile: path)
            #expect(
                try store.find(host: "h:1", repository: "a") { false }?.credentials
                    == .basic(user: "get-h:1", password: Secret("pw")))
            #expect(
                try store.find(host: "k:2", repository: "a") { false }?.credentials
                    == .basic(user: "u", password: Secret("f")))
            #expect(try store.find(host: "z", repository: "a") { false } == nil)
            #expect(throws: OCIError.self) {
                try CredentialStore(file: directory + "/none", defaultFile: path).find(host: "h:1", repository: "a") {
                    false
                }
            }
            #expect(
                try CredentialStore(file: nil, defaultFile: directory + "/none").find(host: "h:1", repository: "a") {
                    false
                } == nil)
        }
    }
}
