import LaminaTestSupport

/// An image with Debian's Python and some tools in it, of two layers: as it would be built, and in both lazy formats.
enum ProgramImage {
    /// `TREE`: only what the programs need; and the tars of two layers beside it.
    private static let make = """
        set -eu
        tree=$1
        copy() {
            for file in "$@"; do
                mkdir -p "$tree$(dirname "$file")"
                cp -L "$file" "$tree$file"
            done
        }
        libraries() { ldd "$@" 2>/dev/null | grep -o '/[^ ]*' | grep -v ':$' | sort -u; }
        mkdir -p "$tree/usr/bin" "$tree/usr/lib" "$tree/usr/lib64" "$tree/tmp" "$tree/etc" "$tree/data"
        for name in bin lib lib64; do ln -s usr/$name "$tree/$name"; done
        programs='/usr/bin/python3.11'
        for name in sh cat chmod mv ls sleep stat sha256sum; do programs="$programs $(readlink -f "$(command -v $name)")"; done
        copy $programs
        copy $(libraries $programs /usr/lib/python3.11/lib-dynload/*.so)
        ln -s python3.11 "$tree/usr/bin/python3"
        [ -e "$tree/usr/bin/sh" ] || ln -s dash "$tree/usr/bin/sh"
        cp -a /usr/lib/python3.11 "$tree/usr/lib/python3.11"
        rm -rf "$tree"/usr/lib/python3.11/test "$tree"/usr/lib/python3.11/idlelib
        find "$tree" -name __pycache__ -prune -exec rm -rf {} +
        echo 'root:x:0:0:root:/:/bin/sh' >"$tree/etc/passwd"
        chmod 0750 "$tree/data"
        tar -C "$tree" --numeric-owner -cf "$tree.1.tar" .
        # A layer above, which says nothing of the directory that its file is in.
        echo 'above' >"$tree/data/above"
        tar -C "$tree" --numeric-owner -cf "$tree.2.tar" data/above
        """

    /// Makes the image, converts it, and pushes it three times; returns the repositories.
    static let pushed = Result<(plain: String, estargz: String, zstdChunked: String), any Error> {
        let directory = try Shared.directory.get()
        let layout = directory + "/program.oci"
        let tree = directory + "/program"
        try run(["/bin/sh", "-c", make, "sh", tree], seconds: 240).orThrow()
        try LayeredImages.make(layout, of: ["\(tree).1.tar", "\(tree).2.tar"])
        let registry = try Shared.registry.get()
        try registry.push(layout: layout, sourceTag: "latest", name: "program/plain", tag: "1")
        for format in ["estargz", "zstd-chunked"] {
            let name = format == "estargz" ? "estargz" : "zstd"
            let converted = "\(directory)/program-\(name).oci"
            try run(
                [
                    Requirements.lamina, "convert", "--level", "1", "--format", format, "oci:\(layout):latest",
                    "oci:\(converted):latest",
                ], seconds: 240
            ).orThrow()
            try registry.push(layout: converted, sourceTag: "latest", name: "program/\(name)", tag: "1")
            removeTree(converted)
        }
        let host = registry.host
        return ("\(host)/program/plain:1", "\(host)/program/estargz:1", "\(host)/program/zstd:1")
    }

    /// Imports of the standard library, and writes to what the image brings; ends with `fine`.
    static let program = """
        import asyncio, ctypes, decimal, email.message, hashlib, http.client, json, lzma, os, sqlite3, ssl, stat, subprocess
        import unittest, urllib.request, xml.dom.minidom, zlib
        assert json.loads(json.dumps({"a": [1, 2]}))["a"] == [1, 2]
        with sqlite3.connect(":memory:") as database: assert database.execute("select 6*7").fetchone() == (42,)
        assert decimal.Decimal("0.1") * 3 == decimal.Decimal("0.3")
        asyncio.run(asyncio.sleep(0))
        lower = "/usr/lib/python3.11/this.py"
        before = open(lower, "rb").read()
        with open(lower, "ab") as file: file.write(b"# appended\\n")
        assert open(lower, "rb").read() == before + b"# appended\\n"
        os.chmod("/usr/bin/sleep", 0o4711)
        assert stat.S_IMODE(os.stat("/usr/bin/sleep").st_mode) == 0o4711
        subprocess.run(["mv", "/usr/lib/python3.11/antigravity.py", "/tmp/moved.py"], check=True)
        assert not os.path.exists("/usr/lib/python3.11/antigravity.py") and b"import" in open("/tmp/moved.py", "rb").read()
        os.rename("/usr/lib/python3.11/json/tool.py", "/data/tool.py")
        os.remove("/usr/lib/python3.11/json/scanner.py")
        assert open("/data/above").read() == "above\\n"
        assert stat.S_IMODE(os.stat("/data").st_mode) == 0o750, "as the layer below has it"
        print("fine")
        """
}
