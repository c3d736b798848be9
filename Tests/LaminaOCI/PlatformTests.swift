import LaminaOCI
import Testing

@Suite("Platforms")
struct PlatformTests {
    @Test(
        "names are normalized as containerd does",
        arguments: [
            ("linux/amd64", "linux/amd64"), ("linux/x86_64", "linux/amd64"), ("amd64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"), ("Linux/AMD64/v3", "linux/amd64/v3"), ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"), ("linux/arm64/8", "linux/arm64"), ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"), ("linux/armhf", "linux/arm/v7"), ("linux/i686", "linux/386"),
            ("windows/amd64", "windows/amd64"), ("linux/riscv64", "linux/riscv64"),
        ])
    func parsing(text: String, normalized: String) throws {
        #expect(try Platform(parsing: text).description == normalized)
    }

    @Test(
        "what is no platform is refused",
        arguments: ["", "/", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "linux/é"])
    func refusing(text: String) {
        #expect(throws: OCIError.self) { try Platform(parsing: text) }
    }

    @Test(
        "an image fits a platform as containerd says",
        arguments: [
            ("linux/amd64", "linux/amd64", 0), ("linux/amd64", "linux/amd64/v1", 0),
            ("linux/amd64", "linux/amd64/v2", nil),
            ("linux/amd64", "linux/386", 1), ("linux/amd64", "linux/arm64", nil), ("linux/amd64", "windows/amd64", nil),
            ("linux/amd64/v3", "linux/amd64/v3", 0), ("linux/amd64/v3", "linux/amd64/v2", 1),
            ("linux/amd64/v3", "linux/amd64", 2), ("linux/amd64/v3", "linux/amd64/v4", nil),
            ("linux/arm64", "linux/arm64/v8", 0), ("linux/arm64/v8", "linux/arm64", 0),
            ("linux/arm64", "linux/arm/v7", 2),
            ("linux/arm64", "linux/amd64", nil), ("linux/arm/v7", "linux/arm/v6", 1),
            ("linux/arm/v6", "linux/arm/v7", nil),
        ] as [(String, String, Int?)])
    func matching(host: String, image: String, rank: Int?) throws {
        #expect(try Platform(parsing: host).rank(of: Platform(parsing: image)) == rank)
    }

    @Test("this machine has a platform that parses to itself")
    func host() throws {
        #expect(try Platform(parsing: Platform.host.description) == Platform.host)
    }
}
