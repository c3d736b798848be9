import Testing

@testable import LaminaPodman

@Suite("storage.conf")
struct StorageConfigurationTests {
    private static let path = "/etc/containers/storage.conf"

    private func stores(_ text: String) throws -> [String] {
        try StorageConfiguration(parsing: Array(text.utf8), path: Self.path).imageStores
    }

    @Test(
        "one more image store, and the rest as it was",
        arguments: [
            "[storage]\ndriver = \"overlay\"\n# a remark\n[storage.options]\nsize = \"\"\n[storage.options.overlay]\nmountopt = \"nodev\"\n",
            "[storage]\ndriver = \"overlay\"\n[storage.options]\n# additionalimagestores = []\nadditionalimagestores = [\n]\n",
            "[storage]\ndriver = \"overlay\"\n\n[storage.options.overlay]\nmountopt = \"nodev\"\n",
            "[storage]\ndriver = \"overlay\"\n", "",
            "[storage]\n[storage.options]\nadditionalimagestores = [ \"/other\", ] # others\n",
            "[storage]\n[storage.options] # here\nadditionalimagestores=[\"/a\",\n\"/b\"]\n",
        ])
    func adding(_ text: String) throws {
        let before = try stores(text)
        let added = try #require(try StorageConfiguration.adding("/images", to: text, path: Self.path))
        #expect(try stores(added) == ["/images"] + before)
        for line in text.split(separator: "\n") where !line.contains("additionalimagestores") {
            #expect(added.contains(line))
        }
        #expect(try StorageConfiguration.adding("/images", to: added, path: Self.path) == nil)
        let removed = try #require(try StorageConfiguration.removing("/images", from: added, path: Self.path))
        #expect(try stores(removed) == before)
        #expect(try StorageConfiguration.removing("/images", from: removed, path: Self.path) == nil)
    }

    @Test("where there is no file, one is made that podman takes, and taken away again")
    func fresh() throws {
        let made = try #require(try StorageConfiguration.adding("/images", to: nil, path: Self.path))
        let found = try StorageConfiguration(parsing: Array(made.utf8), path: Self.path)
        #expect(found.driver == "overlay" && found.graphRoot == "/var/lib/containers/storage" && found.runRoot != nil)
        #expect(try StorageConfiguration.removing("/images", from: made, path: Self.path) == "")
    }

    @Test(
        "a form that cannot be changed with certainty is left alone, and the error says what to write",
        arguments: [
            "[storage]\noptions = { additionalimagestores = [\"/a\"] }\n",
            "[storage]\noptions.additionalimagestores = [\"/a\"]\n",
            "[storage]\n[storage.options]\n\"additionalimagestores\" = [\"/a\"]\n",
        ])
    func otherForms(_ text: String) {
        #expect {
            _ = try StorageConfiguration.adding("/images", to: text, path: Self.path)
        } throws: { "\($0)".contains("by hand to [\"/images\", \"/a\"]") }
    }

    @Test("what is no TOML is named with its line")
    func broken() {
        #expect { _ = try stores("[storage\n") } throws: { "\($0)".contains(Self.path) && "\($0)".contains("line 1") }
    }
}
