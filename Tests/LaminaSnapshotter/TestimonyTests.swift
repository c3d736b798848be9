import LaminaDigest
import Testing

@testable import LaminaSnapshotter

private func digest(_ text: String) -> Digest { SHA256.hash(Array(text.utf8)) }

private let naming = #""containerd.io/snapshot/remote/stargz.reference": "169.254.169.254/a:1""#
private let annotated = #", "annotations": {"# + naming + "}"
/// More than lamina takes of a manifest.
private let manyAnnotations = (0...1000).map { "\"a\($0)\": \"b\", " }.joined()

@Suite("What containerd's manifests say of a layer")
struct TestimonyTests {
    private let diffIDs = [digest("first"), digest("second")]
    /// Of the layer that is asked for.
    private var chain: String { LayerNames.chains(diffIDs)[1].description }
    /// An image with the layer that says nothing wrong.
    private var honest: Documents { Documents(manifest("", ""), configuration(diffIDs)) }

    private struct Documents {
        var manifest: [UInt8]?
        var configuration: [UInt8]?

        init(_ manifest: [UInt8]?, _ configuration: [UInt8]?) {
            (self.manifest, self.configuration) = (manifest, configuration)
        }
    }

    private func configuration(_ diffIDs: [Digest]) -> [UInt8] {
        let texts = diffIDs.map { "\"\($0)\"" }.joined(separator: ",")
        return Array(#"{"rootfs": {"type": "layers", "diff_ids": [\#(texts)]}}"#.utf8)
    }

    /// - Parameter layers: what each descriptor has beside its digest.
    private func manifest(_ layers: String...) -> [UInt8] {
        let texts = layers.enumerated().map { number, more in "{\"digest\": \"\(digest("blob \(number)"))\"\(more)}" }
        return Array(#"{"schemaVersion": 2, "layers": [\#(texts.joined(separator: ","))]}"#.utf8)
    }

    /// Why the layer's labels are not believed, where containerd has the images `m0`, `m1` and so on.
    private func doubt(_ images: Documents...) -> String? {
        var manifests: [(name: String, says: ManifestTestimony)] = []
        for image in images {
            let says = ManifestTestimony(manifest: image.manifest, configurations: [image.configuration])
            manifests.append((name: "m\(manifests.count)", says: says))
        }
        return ManifestTestimony.doubt(about: chain, manifests)
    }

    @Test("is nothing where they have no annotation that looks like a client's label")
    func clean() {
        let toc = #", "annotations": {"containerd.io/snapshot/stargz/toc.digest": "x", "org.example": "y"}"#
        #expect(doubt(Documents(manifest(toc, toc), configuration(diffIDs))) == nil)
        // What another image says of other layers is its own.
        #expect(doubt(Documents(manifest(annotated), configuration([digest("x")])), honest) == nil)
    }

    @Test("is not known of a chain that none of them has, whichever layer a label names")
    func unknown() {
        #expect(doubt() != nil)
        #expect(doubt(Documents(manifest("", ""), configuration([diffIDs[1]]))) != nil)
        #expect(doubt(Documents(manifest("", ""), configuration([diffIDs[1], diffIDs[0]]))) != nil)
    }

    @Test(
        "is a doubt where one of the layer's says anywhere what only clients say",
        arguments: [
            annotated, #", "Annotations": {"# + naming + "}",
            annotated + #", "annotations": {"a": "b"}"#,
            #", "annotations": {"containerd.io/snapshot/cri.image-ref": "169.254.169.254/a:1"}"#,
            #", "annotations": {"containerd.io\/snapshot\u002fcri.image-ref": "169.254.169.254/a:1"}"#,
            #", "annotations": {"# + manyAnnotations + naming + "}",
        ])
    func says(descriptor: String) {
        // At the layer, below it, and at one that no configuration knows.
        for layers in [manifest("", descriptor), manifest(descriptor, ""), manifest("", "", descriptor)] {
            let image = Documents(layers, configuration(diffIDs))
            #expect(doubt(image)?.contains("m0") == true)
            // Another image with the chain vouches for nothing of this one.
            #expect(doubt(honest, image)?.contains("m1") == true)
        }
    }

    @Test("is a doubt where one of the layer's cannot be read, as Go may read it")
    func unreadable() {
        let text = manifest(#", "annotations": {"a": "?"}"#)
        let notUTF8: [UInt8] = text.map { $0 == UInt8(ascii: "?") ? 0xff : $0 }
        let deep = Array((String(repeating: "[", count: 200) + String(repeating: "]", count: 200)).utf8)
        #expect(doubt(Documents(text, configuration(diffIDs))) == nil)
        for bytes in [notUTF8, deep, [], nil] as [[UInt8]?] {
            #expect(doubt(Documents(bytes, configuration(diffIDs))) != nil)
        }
    }

    @Test("is known of the three hundredth layer")
    func many() {
        let diffIDs = (0..<300).map { digest("\($0)") }
        let chain = LayerNames.chains(diffIDs)[299].description
        func reason(_ layer: String) -> String? {
            let says = ManifestTestimony(manifest: manifest(layer), configurations: [configuration(diffIDs)])
            return ManifestTestimony.doubt(about: chain, [(name: "m", says: says)])
        }
        #expect(reason("") == nil)
        #expect(reason(annotated) != nil)
    }

    @Test("is a doubt where the configuration of such a manifest cannot be read and may have the layer")
    func configurations() {
        func image(_ configuration: String, _ descriptor: String = annotated) -> Documents {
            Documents(manifest(descriptor), Array(configuration.utf8))
        }
        let list = #"["\#(diffIDs[0])", "\#(diffIDs[1])"]"#
        let escaped = list.split(separator: "a", omittingEmptySubsequences: false).joined(separator: #"\u0061"#)
        for named in [
            #"{"rootfs": {"diff_ids": []}, "RootFS": {"diff_ids": \#(list)}}"#,
            #"{"rootfs": {"diff_ids": [], "diff_ids": \#(list)}}"#,
            #"{"rootfs": {"diff_ids": []}, "rootf\u017f": {"diff_ids": \#(escaped)}}"#,
            #"{"rootfs": {"diff_ids": \#(list)}"#,
        ] {
            #expect(doubt(honest, image(named))?.contains("m1") == true, "\(named)")
            #expect(doubt(honest, image(named, "")) == nil, "there is nothing to hand on: \(named)")
            // It alone is no proof that there is an image with the layer.
            #expect(doubt(image(named, "")) != nil, "\(named)")
        }
        #expect(doubt(honest, Documents(manifest(annotated), nil)) != nil, "too long to be read")
        #expect(doubt(honest, image(#"{"RootFS": {"diff_ids": ["\#(digest("other"))"]}}"#)) == nil)
    }
}
