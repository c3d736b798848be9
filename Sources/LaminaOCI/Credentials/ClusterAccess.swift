import Glibc
import LaminaSystem

/// How to reach the API of a Kubernetes cluster, and as which user.
public struct ClusterAccess: Sendable {
    /// `https://HOST[:PORT][/PATH]`, without a slash at the end.
    public var server: String
    public var tls: TLSSettings
    /// The value of the header Authorization; nil if a certificate identifies the user.
    public var authorization: Secret?
    /// The files that all of it was read from.
    public var origin: String

    /// A token has some kilobytes, and so has a certificate.
    private static let fileLimit = 1 << 20
    /// https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
    private static let account = "/var/run/secrets/kubernetes.io/serviceaccount"

    /// - Throws: `badConfiguration` for a server that is not an https or http URL, and for HTTP without TLS to another machine:
    ///   anyone on the way could read every secret.
    public init(server: String, tls: TLSSettings = TLSSettings(), authorization: Secret? = nil, origin: String)
        throws(OCIError)
    {
        guard let place = Origin(of: server) else {
            throw OCIError(.badConfiguration, "\(origin): the server '\(server.prefix(200))' is no URL of an API")
        }
        guard place.scheme == "https" || ImageReference.isLoopback(host: place.authority) else {
            throw OCIError(.badConfiguration, "\(origin): secrets are not fetched from \(server) without TLS")
        }
        self.server = server.hasSuffix("/") ? String(server.dropLast()) : server
        self.tls = tls
        self.authorization = authorization
        self.origin = origin
    }

    /// What the process may use as a pod of a cluster; nil if it is not a pod.
    ///
    /// - Throws: `badConfiguration` for a pod without a token: `automountServiceAccountToken` of its account is false.
    public static func inPod() throws(OCIError) -> ClusterAccess? {
        guard let host = getenv("KUBERNETES_SERVICE_HOST"), host[0] != 0, let port = getenv("KUBERNETES_SERVICE_PORT")
        else { return nil }
        let name = String(cString: host)
        var tls = TLSSettings()
        tls.authorities = [account + "/ca.crt"]
        return try ClusterAccess(
            server: "https://\(name.contains(":") ? "[\(name)]" : name):\(String(cString: port))", tls: tls,
            authorization: bearer(tokenIn: account + "/token"), origin: "the pod's account")
    }

    /// The header's value for a token in a file. The file is read each time, because the cluster renews it.
    public static func bearer(tokenIn path: String) throws(OCIError) -> Secret {
        do {
            return bearer(String(decoding: try readFile(path, limit: fileLimit), as: UTF8.self))
        } catch {
            throw OCIError(.badConfiguration, "the token for the cluster's API cannot be read", cause: error)
        }
    }

    public static func bearer(_ token: String) -> Secret {
        // A newline after it would end the header.
        Secret("Bearer " + token.filter { !$0.isWhitespace && !$0.isNewline })
    }

    public static func basic(user: String, password: String) -> Secret {
        Secret("Basic " + Base64.encode("\(user):\(password)".utf8))
    }
}
