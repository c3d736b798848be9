import Foundation
import LaminaConvert
import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaTestSupport
import Testing

@Suite("convert images")
struct ImageConversionTests {
    @Test("an ordinary image becomes the same tree as the one that the reference writer made of it")
    func likeTheReference() throws {
        let scratch = Scratch()
        let image = try scratch.convert("oci:\(fixtures)/plain-gzip:org", chunkSize: 4 << 20)
        let reference = try ImageReference(parsing: "oci:\(fixtures)/estargz:esgz")
        let theirs = try ImageResolver.resolve(reference, source: reference.openSource())
        #expect(image.layers.count == theirs.layers.count)
        for (mine, other) in zip(image.layers, theirs.layers) {
            let expected = try describe(scratch.bytes("\(fixtures)/estargz/blobs/sha256/\(other.digest.hex)"))
            let actual = try describe(scratch.blob(mine.descriptor.digest))
            #expect(actual.count == expected.count)
            for (path, words) in expected { #expect(actual[path] == words, "\(path)") }
        }
    }

    @Test("config, history and annotations stay; diff IDs, sizes and TOC digests are those of the new layers")
    func documents() throws {
        let scratch = Scratch()
        let image = try scratch.convert("oci:\(fixtures)/plain-gzip:org")
        let reference = try ImageReference(parsing: "oci:\(scratch.path)/out:x")
        let resolved = try ImageResolver.resolve(reference, source: reference.openSource())
        #expect(resolved.manifestDigest == image.descriptor.digest)
        #expect(resolved.diffIDs == image.layers.map(\.diffID))
        let old = try ImageReference(parsing: "oci:\(fixtures)/plain-gzip:org")
        let before = try ImageResolver.resolve(old, source: old.openSource())
        #expect(resolved.config.historyBytes == before.config.historyBytes)
        #expect(resolved.config.platform == before.config.platform)
        for (layer, written) in zip(resolved.layers, image.layers) {
            #expect(layer.mediaType == MediaType.ociLayerGzip)
            #expect(layer.annotations["containerd.io/snapshot/stargz/toc.digest"] == written.tocDigest.description)
            #expect(layer.annotations["io.containers.estargz.uncompressed-size"] == "\(written.uncompressedSize)")
            let path = "out/blobs/sha256/\(layer.digest.hex)"
            let sums = try scratch.sh(
                "sha256sum < \(path); gzip -dc \(path) | sha256sum; gzip -dc \(path) | wc -c; stat -c %s \(path)"
            )
            .split(whereSeparator: { $0 == "\n" || $0 == " " || $0 == "-" }).map(String.init)
            #expect(sums == [layer.digest.hex, written.diffID.hex, "\(written.uncompressedSize)", "\(layer.size)"])
        }
    }

    @Test(
        "the same source gives the same image, whatever the number of threads",
        arguments: [
            "oci:\(fixtures)/plain-gzip:org", "oci:\(fixtures)/zstd-chunked-podman-5:podman5",
            "oci:\(fixtures)/estargz-64k:esgz64k",
        ])
    func deterministic(source: String) throws {
        let scratch = Scratch()
        let first = try scratch.convert(source, tag: "a", threads: 1)
        #expect(try scratch.convert(source, tag: "b", threads: 2) == first)
        #expect(try scratch.convert(source, tag: "c", threads: 3) == first)
        #expect(try scratch.convert(source, tag: "d", threads: 3, first: ["data/link"]) != first)
    }

    @Test("an image whose blob or diff ID is not what it says is refused, and nothing is left")
    func wrongDigest() throws {
        let scratch = Scratch()
        // Its writer dropped the tar's padding: the diff IDs are wrong.
        let error = #expect(throws: ConvertError.self) {
            try scratch.convert("oci:\(fixtures)/zstd-chunked-skopeo-1.9:podman")
        }
        #expect(error?.code == .badSource && error?.description.contains("diff ID") == true)
        #expect(try scratch.sh("ls -A") == "")
        try scratch.sh(
            "cp -r '\(fixtures)/plain-gzip' in && f=$(ls -S in/blobs/sha256/* | head -1) && printf X | dd of=$f bs=1 seek=900000 conv=notrunc 2>&1"
        )
        let damaged = #expect(throws: ConvertError.self) { try scratch.convert("oci:\(scratch.path)/in:org") }
        #expect(damaged?.code == .badSource)
    }

    @Test(
        "prioritized files come first in the last layer that holds them, behind their parents and before the landmark")
    func prioritized() throws {
        let scratch = Scratch()
        let source = "oci:\(fixtures)/plain-gzip:org"
        let image = try scratch.convert(source, first: ["/data/link", "etc/hello", "./srv/private/key"])
        let layers = try image.layers.map { try names(scratch.blob($0.descriptor.digest)) }
        #expect(
            Array(layers[0].prefix(6)) == [
                "data/", "data/random.bin", "data/link", "srv/", "srv/private/", "srv/private/key",
            ])
        #expect(layers[0][6] == ".prefetch.landmark")
        #expect(Array(layers[1].prefix(2)) == ["etc/hello", ".prefetch.landmark"])
        #expect(layers[2][0] == ".no.prefetch.landmark")
        // The same trees.
        let plain = try scratch.convert(source, tag: "plain")
        for (left, right) in zip(image.layers, plain.layers) {
            #expect(
                try describe(scratch.blob(left.descriptor.digest)) == describe(scratch.blob(right.descriptor.digest)))
        }
        #expect(try scratch.sh("find out -name '.lamina*'") == "")
    }

    @Test(
        "a prioritized file that is not in the image is an error that names it",
        arguments: ["nope", "rm/gone", "opq/old", "etc/hello/below"])
    func missing(path: String) throws {
        let scratch = Scratch()
        let error = #expect(throws: ConvertError.self) {
            try scratch.convert("oci:\(fixtures)/plain-gzip:org", first: [path])
        }
        #expect(error?.code == .noSuchFile && error?.description.contains(path) == true)
        #expect(try scratch.sh("ls -A") == "")
    }

    @Test("annotations that a snapshotter takes for labels do not come along, but for what is written anew")
    func labels() throws {
        let scratch = Scratch()
        try scratch.sh(
            """
            cp -r '\(fixtures)/plain-gzip' in && chmod -R u+w in && cd in && python3 - <<'X'
            import hashlib, json
            index = json.load(open('index.json'))
            entry = index['manifests'][0]
            manifest = json.load(open('blobs/sha256/' + entry['digest'][7:]))
            for place in [manifest] + manifest['layers']:
                place.setdefault('annotations', {}).update({
                    'containerd.io/snapshot/remote/stargz.reference': '169.254.169.254/a:1',
                    'containerd.io/snapshot/cri.image-ref': '169.254.169.254/a:1',
                    'containerd.io/snapshot/stargz/toc.digest': 'sha256:0', 'org.example.kept': 'yes'})
            text = json.dumps(manifest).encode()
            entry.update(digest='sha256:' + hashlib.sha256(text).hexdigest(), size=len(text))
            open('blobs/sha256/' + entry['digest'][7:], 'wb').write(text)
            json.dump(index, open('index.json', 'w'))
            X
            """)
        let image = try scratch.convert("oci:\(scratch.path)/in:org")
        let reference = try ImageReference(parsing: "oci:\(scratch.path)/out:x")
        let resolved = try ImageResolver.resolve(reference, source: reference.openSource())
        #expect(resolved.manifest.annotations == ["org.example.kept": "yes"])
        for (layer, written) in zip(resolved.layers, image.layers) {
            #expect(
                layer.annotations == [
                    "org.example.kept": "yes",
                    "containerd.io/snapshot/stargz/toc.digest": written.tocDigest.description,
                    "io.containers.estargz.uncompressed-size": "\(written.uncompressedSize)",
                ])
        }
    }

    @Test(
        "a layer with more entries than one may have is refused before they fill the memory, also if all have one name",
        arguments: [[], ["same"]] as [[String]])
    func entries(first: [String]) throws {
        let scratch = Scratch()
        try scratch.sh("printf x > same && tar -cf in.tar same && for n in 1 2 3; do tar -rf in.tar same; done")
        let source = "tar:\(scratch.path)/in.tar"
        let error = #expect(throws: ConvertError.self) {
            try scratch.convert(source, first: first, change: { $0.limits.entries = 3 })
        }
        #expect(error?.code == .badSource && error?.description.contains("too many entries") == true)
        let long = #expect(throws: ConvertError.self) {
            try scratch.convert(source, first: first, change: { $0.limits.tocBytes = 15 })
        }
        #expect(long?.description.contains("too many entries") == true)
        _ = try scratch.convert(source, first: first, change: { $0.limits.entries = 4 })
    }

    @Test("a stop at any moment leaves the layout as it was")
    func stops() throws {
        let scratch = Scratch()
        _ = try scratch.convert("oci:\(fixtures)/plain-gzip:org", tag: "kept")
        let before = try scratch.listing()
        for limit in [0, 1, 5, 20, 60] {
            let calls = Counter()
            let error = #expect(throws: ConvertError.self) {
                try scratch.convert(
                    "oci:\(fixtures)/plain-gzip:org", first: limit % 2 == 0 ? ["etc/hello"] : [],
                    shouldStop: { calls.next() > limit })
            }
            #expect(error?.code == .interrupted)
            #expect(try scratch.listing() == before)
        }
    }

    @Test("progress goes up to all bytes of the source's layers")
    func progress() throws {
        let scratch = Scratch()
        var seen: [Converter.Progress] = []
        let image = try scratch.convert("oci:\(fixtures)/plain-gzip:org", progress: { seen.append($0) })
        let total = image.layers.compactMap(\.source?.size).reduce(0, +)
        let last = try #require(seen.last)
        #expect(last.bytesDone == total && last.bytesTotal == total && last.layer == 2 && last.layerCount == 3)
        #expect(zip(seen, seen.dropFirst()).allSatisfy { $0.bytesDone <= $1.bytesDone && $0.layer <= $1.layer })
    }
}

/// Counts calls from any thread.
final class Counter: Sendable {
    private let lock = NSLock()
    nonisolated(unsafe) private var count = 0  // only touched with the lock held

    func next() -> Int {
        lock.withLock {
            count += 1
            return count
        }
    }
}

@Suite("convert references")
struct ConversionReferenceTests {
    @Test("sources and destinations are read as they are typed")
    func parses() throws {
        #expect(try ConversionSource(parsing: "tar:a.tar") == .tar(path: "a.tar"))
        #expect(try ConversionSource(parsing: "dir:/x:y") == .directory(path: "/x:y"))
        guard case .image = try ConversionSource(parsing: "debian:12") else {
            Issue.record("a registry's reference is an image")
            return
        }
        #expect(try ConversionDestination(parsing: "oci:/nowhere/d:tag").tag == "tag")
        for bad in ["oci:/d", "debian:12", "tar:x", "oci::tag"] {
            #expect(throws: ConvertError.self) { try ConversionDestination(parsing: bad) }
        }
        for bad in ["tar:", "dir:", "UPPER"] {
            #expect(throws: ConvertError.self) { try ConversionSource(parsing: bad) }
        }
    }
}
