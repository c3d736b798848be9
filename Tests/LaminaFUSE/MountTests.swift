import LaminaSystem
import Testing

@Suite("mountinfo")
struct MountTests {
    @Test("a line is read with its optional fields and escapes")
    func line() throws {
        let text = #"""
            36 35 98:0 /mnt1 /mnt\0402\134a\011b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue
            41 29 0:42 / /x ro,nosuid - fuse.lamina lamina rw,user_id=0
            42 29 0:43 / /dash/- rw - tmpfs - rw

            """#
        let mounts = Mount.parse(Array(text.utf8))
        try #require(mounts.count == 3)
        #expect(mounts[0].directory == "/mnt 2\\a\tb" && mounts[0].root == "/mnt1" && mounts[0].major == 98)
        #expect(mounts[0].type == "ext3" && mounts[0].source == "/dev/root" && mounts[0].parent == 35)
        #expect(mounts[1].type == "fuse.lamina" && mounts[1].minor == 42 && mounts[1].options == "ro,nosuid")
        #expect(mounts[2].source == "-" && mounts[2].directory == "/dash/-" && mounts[2].filesystemOptions == "rw")
    }

    @Test(
        "what is no line is left out, and nothing crashes",
        arguments: [
            "", "\n\n", "a b c", "1 2 3:4 / / rw -", "1 2 3:4 / / rw - ext4", "x 2 3:4 / / rw - ext4 s rw",
            "1 2 34 / / rw - ext4 s rw", "1 2 3:99999999999 / / rw - ext4 s rw", "1 2 3:4 / / rw shared:1 ext4 s rw",
        ])
    func malformed(text: String) { #expect(Mount.parse(Array(text.utf8)).isEmpty) }

    @Test("random changes of a line never crash the parser")
    func fuzz() {
        let line = Array(#"36 35 98:0 /a /mnt\0402\134a rw master:1 - ext3 /dev/root rw\999\"#.utf8)
        var random = SplitMix(state: 7)
        for _ in 0..<5000 {
            var bytes = line
            for _ in 0..<random.next(8) {
                let place = random.next(bytes.count)
                switch random.next(3) {
                case 0: bytes[place] = UInt8(random.next(256))
                case 1: bytes.remove(at: place)
                default: bytes.insert([0x20, 0x5c, 0x0a, 0x37][random.next(4)], at: place)
                }
            }
            for mount in Mount.parse(bytes) { #expect(mount.directory.utf8.count <= bytes.count * 3) }
        }
    }

    @Test("this process's own mounts are all read")
    func own() throws {
        let lines = try readFile("/proc/self/mountinfo").split(separator: UInt8(ascii: "\n"))
        #expect(try Mount.all().count == lines.count)
    }
}

struct SplitMix {
    var state: UInt64

    mutating func next(_ limit: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int((mixed ^ (mixed >> 31)) % UInt64(limit))
    }
}
