import LaminaTestSupport

/// The Go programs of `Tests/Containerd`, built with Debian's packages alone.
enum GoProgram {
    /// A client of CRI, and the pause program of its pods.
    static let cri = Result<String, any Error> { try build("cri") }
    /// ctr with `--snapshotter` for all of its commands.
    static let ctr = Result<String, any Error> { try build("ctr") }
    /// containerd's unpack: `Tests/OddLayers` compares with it.
    static let unpack = Result<String, any Error> { try build("unpack") }

    private static func build(_ name: String) throws -> String {
        let program = try Shared.directory.get() + "/" + name
        // Without C, so that it runs in an image with nothing else.
        let words =
            "cd \"$1\" && CGO_ENABLED=0 GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= exec go build -o \"$2\" ."
        try run(["/bin/sh", "-c", words, "sh", "\(Fixtures.directory)/../Containerd/\(name)", program], seconds: 600)
            .orThrow()
        return program
    }
}
