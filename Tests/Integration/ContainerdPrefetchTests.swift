import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd.UnderContainerd {
    /// An image of two layers: `hot` and `cold` files of 100 kB each, in its own version.
    private static func image(
        _ version: Int, annotations: String = "{}", name: String, _ sandbox: Sandbox
    ) throws -> String {
        let tree = try sandbox.mountPoint("tree\(version)")
        let script = """
            set -e; cd "$1"; mkdir -p lower upper
            for n in 1 2 3 4 5 6; do
                head -c 100000 /dev/urandom >lower/$n; head -c 100000 /dev/urandom >upper/$n
            done
            tar -cf lower.tar lower; tar -cf upper.tar upper
            """
        try run(["/bin/sh", "-c", script, "sh", tree]).orThrow()
        let plain = "\(sandbox.directory)/plain\(version).oci"
        try LayeredImages.make(plain, of: [tree + "/lower.tar", tree + "/upper.tar"])
        let layout = "\(sandbox.directory)/lazy\(version).oci"
        try sandbox.lamina("convert", "oci:\(plain):latest", "oci:\(layout):latest")
        try run(["python3", "-c", annotate, layout, annotations]).orThrow()
        let registry = try Shared.registry.get()
        try registry.push(layout: layout, sourceTag: "latest", name: name, tag: "\(version)")
        return "\(registry.host)/\(name):\(version)"
    }

    /// `LAYOUT ANNOTATIONS`: adds annotations to every layer.
    private static let annotate = """
        import hashlib, json, sys
        layout, annotations = sys.argv[1], json.loads(sys.argv[2])
        index = json.load(open(layout + "/index.json"))
        entry = index["manifests"][0]
        with open(layout + "/blobs/" + entry["digest"].replace(":", "/")) as file: manifest = json.load(file)
        for layer in manifest["layers"]: layer["annotations"].update(annotations)
        data = json.dumps(manifest).encode()
        entry.update(digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))
        with open(layout + "/blobs/" + entry["digest"].replace(":", "/"), "wb") as file: file.write(data)
        with open(layout + "/index.json", "w") as file: json.dump(index, file)
        """

    /// The files whose bytes are all there, of the layers of containerd's topmost image.
    private static func merged(_ sandbox: Sandbox) throws -> [String] {
        try sandbox.sql("SELECT path FROM file WHERE state = 'merged' ORDER BY path")
    }

    @Test(
        "what was opened first in a container of an image is fetched first, and without being opened, of its next version"
    )
    func learned() throws {
        try Self.with("[snapshotter]\nbackground_merge = false\n") { containerd, sandbox in
            let name = "learned"
            let first = try Self.image(1, name: name, sandbox)
            try containerd.pullLazily(first)
            let mount = try sandbox.mountPoint("view")
            try containerd.mountImage(first, at: mount)
            let words = "cat \"$1\"/upper/5 \"$1\"/lower/2 >/dev/null"
            try run(["/bin/sh", "-c", words, "sh", mount]).orThrow()
            let isKnown = try eventually(seconds: 40) { try sandbox.number("SELECT count(*) FROM opened") == 2 }
            #expect(isKnown)
            try containerd.unmountImage(mount)
            // Only that is left of the first version.
            try containerd.removeAll()
            #expect(try eventually(seconds: 20) { try sandbox.number("SELECT count(*) FROM content") == 0 })

            try containerd.pullLazily(Self.image(2, name: name, sandbox))
            #expect(try eventually(seconds: 20) { try Self.merged(sandbox).count >= 2 })
            #expect(try Self.merged(sandbox) == ["/lower/2", "/upper/5"])
            #expect(
                try sandbox.sql("SELECT DISTINCT image FROM snapshot_status WHERE lazy = 'yes'")
                    == ["\(Shared.registry.get().host)/learned:2"])
        }
    }

    @Test("an image's own labels go before background_merge and prefetch")
    func overridden() throws {
        for isOn in [true, false] {
            try Self.with("[snapshotter]\nbackground_merge = \(!isOn)\n") { containerd, sandbox in
                let annotations = "{\"containerd.io/snapshot/lamina.background_merge\": \"\(isOn)\"}"
                try containerd.pullLazily(
                    Self.image(1, annotations: annotations, name: "overridden-\(isOn)", sandbox))
                #expect(try sandbox.number("SELECT count(*) FROM snapshot_status WHERE lazy = 'yes'") == 2)
                if isOn {
                    #expect(try eventually(seconds: 30) { try Self.merged(sandbox).count == 12 })
                } else {
                    // By then a file that should be fetched would be there.
                    usleep(2_000_000)
                    #expect(try Self.merged(sandbox).isEmpty)
                    // A server that starts again does not forget it either.
                    try containerd.lamina.killServer()
                    usleep(2_000_000)
                    #expect(try Self.merged(sandbox).isEmpty)
                }
            }
        }
    }

    @Test("what an image marks is fetched where nothing else is, unless prefetch is off")
    func marked() throws {
        for isOn in [true, false] {
            let settings = "[snapshotter]\nbackground_merge = false\nprefetch = \(isOn)\n"
            try Self.with(settings) { containerd, sandbox in
                let tree = try sandbox.mountPoint("tree")
                try run(["/bin/sh", "-c", "for n in 1 2 3 4; do echo $n >\"$1/$n\"; done", "sh", tree]).orThrow()
                let layout = sandbox.directory + "/marked.oci"
                try sandbox.lamina("convert", "--prioritized-file", "3", "dir:\(tree)", "oci:\(layout):latest")
                let registry = try Shared.registry.get()
                try registry.push(layout: layout, sourceTag: "latest", name: "marked", tag: "1")
                try containerd.pullLazily("\(registry.host)/marked:1")
                if isOn {
                    #expect(try eventually(seconds: 20) { try Self.merged(sandbox) == ["/3"] })
                } else {
                    usleep(2_000_000)
                    #expect(try Self.merged(sandbox).isEmpty)
                }
            }
        }
    }
}
