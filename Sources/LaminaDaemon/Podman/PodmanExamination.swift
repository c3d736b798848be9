import Glibc
import LaminaPodman
import LaminaSystem

/// `lamina doctor podman`: whether podman, buildah, skopeo and CRI-O see the images of this store.
struct PodmanExamination {
    var root: String
    var configuration: Configuration
    /// Whether a server answers.
    var isServed: Bool
    var places = StorageConfiguration.places
    /// What `podman --version` prints; nil where there is none.
    var version: () -> String? = PodmanExamination.installed

    func examine() -> [Finding] {
        [program(), key()] + storage() + [files(), server()]
    }

    private func program() -> Finding {
        guard let text = version() else {
            return Finding(
                "podman", .unknown, "not found in the PATH", advice: "buildah, skopeo and CRI-O need what follows, too")
        }
        return Finding("podman", .ok, text)
    }

    private func key() -> Finding {
        guard let directory = configuration.podman.images else {
            return Finding(
                "[podman] images", .fail, "not set", advice: "'lamina setup podman' sets it, and podman's storage.conf")
        }
        let ids = configuration.podman.ids == .claimed ? "as soon as they can be mounted" : "when they are proven"
        return Finding("[podman] images", .ok, "\(directory), \(ids)")
    }

    private func storage() -> [Finding] {
        let name = "storage.conf"
        let found: StorageConfiguration?
        do {
            found = try StorageConfiguration.ofMachine(places)
        } catch {
            return [Finding(name, .fail, "\(error)", advice: "podman itself fails until that is mended")]
        }
        guard let found else {
            return [
                Finding(
                    name, .fail, "neither \(places.joined(separator: " nor ")) is there",
                    advice: "'lamina setup podman' makes one")
            ]
        }
        var findings: [Finding] = []
        let missing = [("driver", found.driver), ("graphroot", found.graphRoot), ("runroot", found.runRoot)]
            .filter { ($0.1 ?? "").isEmpty }.map(\.0)
        if !missing.isEmpty {
            findings.append(
                Finding(
                    name, .fail, "\(found.path) lacks \(missing.joined(separator: ", ")) of [storage]",
                    advice: "podman wants all three where the file is there"))
        } else if found.driver != "overlay" {
            findings.append(
                Finding(
                    name, .fail, "\(found.path): driver is \"\(found.driver ?? "")\"",
                    advice: "image stores are those of one driver, and lamina's are overlay's"))
        } else {
            findings.append(Finding(name, .ok, found.path))
        }
        findings.append(list(found))
        let roots = (try? StorageConfiguration.graphRoots(configuration.podman.graphRoots, places: places)) ?? []
        findings.append(Finding("graph roots", .ok, roots.joined(separator: ", ")))
        return findings
    }

    private func list(_ found: StorageConfiguration) -> Finding {
        let name = "additionalimagestores"
        guard let directory = configuration.podman.images else {
            return Finding(name, .unknown, "nothing to look for")
        }
        if let missing = found.imageStores.first(where: { access($0, F_OK) != 0 }) {
            return Finding(
                name, .fail, "\(missing) is not there",
                advice: "every command of podman fails until it is, or is not named")
        }
        let real = resolvedPath(directory)
        return found.imageStores.contains { $0 == directory || resolvedPath($0) == real }
            ? Finding(name, .ok, directory)
            : Finding(
                name, .fail, "\(found.path) does not name \(directory)",
                advice: "'lamina setup podman' adds it to [storage.options] there")
    }

    private func files() -> Finding {
        let name = "image store"
        guard let directory = configuration.podman.images else { return Finding(name, .unknown, "none") }
        guard access("\(directory)/lamina-image-store", F_OK) == 0 else {
            return Finding(name, .fail, "\(directory) was not made by lamina yet", advice: "start 'lamina serve'")
        }
        guard let names = try? File.names(inDirectory: "\(directory)/overlay-images") else {
            return Finding(name, .fail, "\(directory) cannot be read", advice: "try the same command with sudo")
        }
        return Finding(name, .ok, counted(names.count { $0.count == 64 }, "image"))
    }

    private func server() -> Finding {
        isServed
            ? Finding("server", .ok, "answers; it keeps the image store, and shows the layers at \(root)/fs")
            : Finding(
                "server", .fail, "none answers: containers from lamina's images do not start",
                advice: "'systemctl enable --now lamina', before podman's own services")
    }

    /// What podman says of itself.
    static func installed() -> String? {
        for directory in ["/usr/local/bin", "/usr/bin", "/bin"] {
            let path = directory + "/podman"
            guard access(path, X_OK) == 0, let output = popen("'\(path)' --version 2>/dev/null", "r") else { continue }
            defer { pclose(output) }
            var line = [CChar](repeating: 0, count: 200)
            guard fgets(&line, Int32(line.count), output) != nil else { continue }
            let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            return text.split(separator: "\n").first.map(String.init)
        }
        return nil
    }
}
