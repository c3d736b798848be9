import Foundation
import Glibc
public import LaminaOCI
import LaminaSystem
import Yams

/// The files by which clients of Kubernetes find their cluster.
///
/// https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/,
/// https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
public enum Kubeconfig {
    /// It contains certificates of some kilobytes each.
    private static let byteLimit = 1 << 20

    /// How to reach the cluster: by the named file, else the first existing file in `$KUBECONFIG`, else `~/.kube/config`, else
    /// as a pod, if the process is in one.
    ///
    /// - Throws: `badConfiguration`, naming the file and the key, never a value.
    public static func access(path: String?) throws(OCIError) -> ClusterAccess {
        if let path { return try read(path) }
        for path in usualPaths() where Glibc.access(path, F_OK) == 0 { return try read(path) }
        if let access = try ClusterAccess.inPod() { return access }
        throw OCIError(
            .badConfiguration,
            "there is no kubeconfig at \(usualPaths().joined(separator: ", ")), and this is no pod; "
                + "kubeconfig_keychain.kubeconfig_path names one")
    }

    private static func usualPaths() -> [String] {
        if let list = getenv("KUBECONFIG"), list[0] != 0 {
            return String(cString: list).split(separator: ":").map(String.init)
        }
        return getenv("HOME").map { [String(cString: $0) + "/.kube/config"] } ?? []
    }

    private static func read(_ path: String) throws(OCIError) -> ClusterAccess {
        do {
            return try parse(try readFile(path, limit: byteLimit), path: path)
        } catch let error as OCIError {
            throw error
        } catch {
            throw OCIError(.badConfiguration, "the kubeconfig \(path) cannot be read", cause: error)
        }
    }

    /// A truth of YAML 1.1, as kubectl reads it; text in quotation marks is none.
    private static func isTrue(_ node: Node) -> Bool {
        guard let scalar = node.scalar, scalar.style == .plain else { return false }
        return ["true", "yes", "on"].contains(scalar.string.lowercased())
    }

    /// Reads a file's bytes; other files that it names are read when they are needed, relative to it.
    static func parse(_ bytes: [UInt8], path: String) throws(OCIError) -> ClusterAccess {
        func wrong(_ what: String) -> OCIError { OCIError(.badConfiguration, "the kubeconfig \(path): \(what)") }
        let root: Node
        do {
            // Nodes, not values: an alias refers to its anchor, however often it is used. All of them are text (`.basic`): the type that a
            // plain scalar may be is found by ICU's regular expressions, whose data the program does not have.
            guard let node = try Yams.compose(yaml: String(decoding: bytes, as: UTF8.self), .basic) else {
                throw wrong("it is empty")
            }
            root = node
        } catch let error as OCIError {
            throw error
        } catch let error as YamlError {
            throw wrong("it is no YAML: \(place(of: error))")
        } catch {
            throw wrong("it is no YAML")
        }
        guard let name = root["current-context"]?.string, !name.isEmpty else {
            throw wrong("it has no current-context")
        }
        func entry(_ kind: String, _ list: String, _ name: String) throws(OCIError) -> Node {
            let found = root[list]?.sequence?.first { $0["name"]?.string == name }
            guard let node = found?[kind] else { throw wrong("\(list) has nothing of the name '\(name.prefix(100))'") }
            return node
        }
        let context = try entry("context", "contexts", name)
        guard let clusterName = context["cluster"]?.string else { throw wrong("the current context has no cluster") }
        let cluster = try entry("cluster", "clusters", clusterName)
        guard let server = cluster["server"]?.string else { throw wrong("the cluster has no server") }
        let user = try context["user"]?.string.map { name throws(OCIError) in try entry("user", "users", name) }
        let directory = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
        let place = Place(directory: directory, wrong: wrong)
        var tls = TLSSettings()
        tls.skipsVerification = cluster["insecure-skip-tls-verify"].map(Self.isTrue) ?? false
        if let name = cluster["tls-server-name"]?.string, !name.isEmpty {
            throw wrong(
                "tls-server-name is nothing that lamina can do; the server's certificate has to name the server")
        }
        if let text = try place.decoded(cluster, "certificate-authority-data") {
            tls.authorityText = text
        } else if let path = place.path(cluster, "certificate-authority") {
            tls.authorities = [path]
        }
        var authorization: Secret?
        if let user {
            try identify(user, place, &tls)
            authorization = try authorize(user, place)
        }
        return try ClusterAccess(server: server, tls: tls, authorization: authorization, origin: path)
    }

    private struct Place {
        var directory: String
        var wrong: (String) -> OCIError

        /// A file that it names; relative to the kubeconfig.
        func path(_ node: Node, _ key: String) -> String? {
            guard let path = node[key]?.string, !path.isEmpty else { return nil }
            return path.hasPrefix("/") ? path : directory + "/" + path
        }

        /// Bytes in the kubeconfig itself, in base64.
        func decoded(_ node: Node, _ key: String) throws(OCIError) -> String? {
            guard let text = node[key]?.string, !text.isEmpty else { return nil }
            guard let data = Data(base64Encoded: text, options: .ignoreUnknownCharacters) else {
                throw wrong("\(key) is no base64")
            }
            return String(decoding: data, as: UTF8.self)
        }
    }

    /// The certificate that identifies the client.
    private static func identify(_ user: Node, _ place: Place, _ tls: inout TLSSettings) throws(OCIError) {
        func text(_ key: String) throws(OCIError) -> String? {
            if let text = try place.decoded(user, key + "-data") { return text }
            guard let path = place.path(user, key) else { return nil }
            do {
                return String(decoding: try readFile(path, limit: byteLimit), as: UTF8.self)
            } catch {
                throw OCIError(.badConfiguration, "\(key) of a kubeconfig cannot be read", cause: error)
            }
        }
        switch (try text("client-certificate"), try text("client-key")) {
        case (nil, nil): return
        case (let certificate?, let key?): tls.clientText = Secret(certificate + "\n" + key)
        case (_?, nil): throw place.wrong("client-certificate has no client-key")
        case (nil, _?): throw place.wrong("client-key has no client-certificate")
        }
    }

    /// The header that identifies the client.
    private static func authorize(_ user: Node, _ place: Place) throws(OCIError) -> Secret? {
        // A file takes precedence over the value beside it, as in client-go.
        if let path = place.path(user, "tokenFile") { return try ClusterAccess.bearer(tokenIn: path) }
        if let token = user["token"]?.string, !token.isEmpty { return ClusterAccess.bearer(token) }
        if let name = user["username"]?.string, !name.isEmpty {
            return ClusterAccess.basic(user: name, password: user["password"]?.string ?? "")
        }
        for plugin in ["exec", "auth-provider"] where user[plugin] != nil {
            throw place.wrong(
                "the user has a plugin (\(plugin)), which lamina does not run; give an account of its own a token or a certificate"
            )
        }
        return nil
    }

    /// Where it stops being YAML; not the text there, which may be secret.
    private static func place(of error: YamlError) -> String {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            "line \(mark.line), \(problem)"
        default: "it cannot be read"
        }
    }
}
