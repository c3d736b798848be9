import Glibc
import LaminaSystem
import Testing

extension EndToEnd {
    @Suite("convert, pull, mount")
    struct Convert {
        /// /usr/share, or the part of it that can be converted in two minutes here.
        static func source() throws -> String {
            let text = try run(["du", "-sx", "--block-size=1M", "/usr/share"]).output
            let mebibytes = Int(text.prefix { $0.isNumber }) ?? .max
            if mebibytes <= 2048 { return "/usr/share" }
            print("/usr/share has \(mebibytes) MiB: /usr/share/doc stands for it")
            return "/usr/share/doc"
        }

        @Test(
            "lamina convert dir:/usr/share oci:…, pull and mount give the directory: names, types, modes, owners, times, xattrs, links, bytes"
        )
        func usrShare() throws {
            try Sandbox.with { sandbox in
                let source = try Self.source()
                let image = "oci:\(sandbox.directory)/image:share"
                let started = now()
                try sandbox.lamina("convert", "--level", "1", "dir:\(source)", image, seconds: 240)
                try sandbox.lamina("pull", image, seconds: 240)
                let mount = try sandbox.mount(image)
                try TreeOracle.expectSame(source, at: mount, in: sandbox)
                print("\(source): converted, pulled, mounted and compared in \(Int(now() - started)) s")
            }
        }

        @Test(
            "what /usr/share may lack comes through as well: every type, xattrs, hard links, odd modes and names",
            arguments: ["estargz", "zstd-chunked"])
        func everyType(format: String) throws {
            try Sandbox.with { sandbox in
                let tree = try sandbox.mountPoint("tree")
                try run(["/bin/sh", "-c", Self.makeEverything, "sh", tree]).orThrow()
                let image = "oci:\(sandbox.directory)/image:all"
                try sandbox.lamina("convert", "--format", format, "--chunk-size", "65536", "dir:\(tree)", image)
                let mount = try sandbox.mount(image)
                try TreeOracle.expectSame(tree, at: mount, in: sandbox, keepsFractions: format == "zstd-chunked")
            }
        }

        private static let makeEverything = """
            set -e; cd "$1"
            mkdir dir dir/sub private; chmod 0700 private; chown 1000:1001 private; chmod 1777 dir
            head -c 300000 /dev/urandom >dir/random; head -c 300000 /dev/zero >dir/zeros; : >empty; printf x >one
            head -c 65536 /dev/urandom >edge; head -c 65537 /dev/urandom >edge1
            ln dir/random dir/sub/hard; ln -s ../nowhere dangling; ln -s dir/random soft
            mkfifo pipe; mknod char c 1 3; mknod block b 8 1
            cp one setuid; chmod 6755 setuid; cp one none; chmod 0 none; chown 12345678:87654321 none
            printf n >"$(printf 'new\\nline')"; printf s >'sp ace'; printf u >'ü-你好'
            long=$(printf 'n%.0s' $(seq 255)); printf l >"$long"
            python3 -c 'import os; os.setxattr("one", "user.key", bytes(range(256))); os.setxattr("dir", "user.empty", b""); os.setxattr("setuid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))'
            python3 -c 'open(b"byte\\xff", "w").write("b")'
            touch -d @0 one; touch -d '1960-01-01 00:00:00 UTC' empty; touch -d '2100-01-01 00:00:00 UTC' edge; touch -h -d @1 soft
            touch -d @1700000000 dir/sub private
            """

        @Test("the same source gives the same bytes, with any number of threads")
        func deterministic() throws {
            try Sandbox.with { sandbox in
                let tree = try Shared.small.get().tree
                let digests = try [("1", "a"), ("2", "b"), ("7", "c")].map { threads, name in
                    let output = try sandbox.lamina(
                        "convert", "--json", "--threads", threads, "--chunk-size", "100000", "dir:\(tree)",
                        "oci:\(sandbox.directory)/\(name):x"
                    ).output
                    return try (decoded(output) as ConvertReport).manifestDigest
                }
                #expect(Set(digests).count == 1)
            }
        }
    }
}
