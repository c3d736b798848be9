import GRPCCore
import LaminaOCI
import LaminaStore
import LaminaSystem
import Logging
import SwiftProtobuf

/// CRI's image service, for kubelet's `--image-service-endpoint`: each call is passed on to containerd unchanged. Before that,
/// the credentials of a pull are kept, because containerd has no way to tell them to a snapshotter.
struct ImageService: RegistrableRPCService {
    let containerd: Forwarder
    let credentials: KeptCredentials
    /// Sees that the chains of an image are its own, as far as they are on record.
    let settle: @Sendable (_ reference: String) throws -> Void
    let log: Logger

    /// The same methods and numbers under two names; containerd 1.6 answers to both, kubelet since 1.26 calls only the first.
    private static let names = ["runtime.v1.ImageService", "runtime.v1alpha2.ImageService"]
    private static let pull = "PullImage"
    private static let methods = ["ListImages", "ImageStatus", pull, "RemoveImage", "ImageFsInfo"]

    func registerMethods<Transport: ServerTransport>(with router: inout RPCRouter<Transport>) {
        for name in Self.names {
            for method in Self.methods {
                let descriptor = MethodDescriptor(fullyQualifiedService: name, method: method)
                router.registerHandler(forMethod: descriptor, deserializer: RawMessages(), serializer: RawMessages()) {
                    request, context in
                    let only = try await ServerRequest(stream: request)
                    return try await answer(only, descriptor, context).response
                }
            }
        }
    }

    private func answer(
        _ request: ServerRequest<[UInt8]>, _ method: MethodDescriptor, _ context: ServerContext
    ) async throws -> Forwarder.Answer {
        func forwarded() async throws -> Forwarder.Answer {
            try await containerd.forward(request.message, request.metadata, to: method, for: context)
        }
        guard method.method == Self.pull else { return try await forwarded() }
        // Before, as nothing is made upon a chain that is in quarantine; and after, as another pull may have come in between.
        func settled() async throws -> Forwarder.Answer {
            try await settle(request.message)
            let answer = try await forwarded()
            if answer.isSuccess { try await settle(request.message) }
            return answer
        }
        guard let offer = PullOffer(request.message) else { return try await settled() }
        let credentials = credentials
        // Whatever happens to them, the pull goes on.
        let pull = try? await onThread("credentials") {
            credentials.begin(offer.credentials, of: offer.image, server: offer.server)
        }
        log.debug(
            "a pull comes with credentials",
            metadata: ["image": "\(offer.image)", "kept": "\(pull != nil)"])
        guard let pull else { return try await settled() }
        do {
            let answer = try await settled()
            await end(pull, succeeded: answer.isSuccess)
            return answer
        } catch {
            await end(pull, succeeded: false)
            throw error
        }
    }

    private func settle(_ message: [UInt8]) async throws {
        guard let image = PullOffer.image(of: message) else { return }
        let (settle, log) = (settle, log)
        let refusal = try await onThread("settle") { () -> String? in
            do {
                try settle(image)
                return nil
            } catch let error as SnapshotError {
                return error.message
            } catch {
                // containerd's own pull says what is wrong with the registry, or does without it.
                log.warning(
                    "an image is pulled, and its chains were not looked at",
                    metadata: ["image": "\(image)", "error": "\(error)"])
                return nil
            }
        }
        if let refusal {
            log.error("a pull is refused", metadata: ["image": "\(image)", "reason": "\(refusal)"])
            throw RPCError(code: .failedPrecondition, message: refusal)
        }
    }

    private func end(_ pull: KeptCredentials.Pull, succeeded: Bool) async {
        try? await onThread("credentials") { [credentials] in credentials.end(pull, succeeded: succeeded) }
    }
}

/// A pull's image, and what came along with it.
private struct PullOffer {
    var image: ImageReference
    var credentials: Credentials
    /// Which server they are for; empty for the image's registry.
    var server: String

    /// The image that a pull is of.
    static func image(of message: [UInt8]) -> String? {
        var options = BinaryDecodingOptions()
        options.discardUnknownFields = true
        let request = try? Runtime_V1_PullImageRequest(serializedBytes: message, options: options)
        return request.flatMap { try? ImageReference(parsing: $0.image.image) }?.description
    }

    /// nil where nothing came along, and where containerd will refuse what did.
    init?(_ message: [UInt8]) {
        var options = BinaryDecodingOptions()
        // Most of the request describes the pod.
        options.discardUnknownFields = true
        guard let request = try? Runtime_V1_PullImageRequest(serializedBytes: message, options: options),
            request.hasAuth, let image = try? ImageReference(parsing: request.image.image)
        else { return nil }
        let auth = request.auth
        guard
            let credentials = Credentials(
                username: auth.username, password: auth.password, auth: auth.auth, identityToken: auth.identityToken,
                registryToken: auth.registryToken)
        else { return nil }
        self.image = image
        self.credentials = credentials
        server = auth.serverAddress
    }
}
