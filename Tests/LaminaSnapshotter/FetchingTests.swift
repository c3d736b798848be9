import Testing

@testable import LaminaSnapshotter

@Suite("What is fetched of a layer that nobody has opened")
struct FetchingTests {
    @Test("is what the server is configured to fetch, unless the image says otherwise by its labels")
    func labels() {
        func fetching(_ labels: [String: String], _ standard: LayerFetching = LayerFetching()) -> LayerFetching {
            LayerFetching(
                labels: Dictionary(uniqueKeysWithValues: labels.map { ("containerd.io/snapshot/lamina." + $0, $1) }),
                standard: standard)
        }
        let nothing = LayerFetching(first: false, whole: false)
        #expect(fetching([:]) == LayerFetching(first: true, whole: true))
        #expect(fetching([:], nothing) == nothing)
        #expect(fetching(["background_merge": "false"]) == LayerFetching(first: true, whole: false))
        #expect(fetching(["prefetch": "False"]) == LayerFetching(first: false, whole: true))
        #expect(fetching(["background_merge": "1", "prefetch": "TRUE"], nothing) == LayerFetching())
        #expect(fetching(["background_merge": "0", "prefetch": "0"]) == nothing)
        // A value without a meaning has no effect.
        #expect(fetching(["background_merge": "no thanks", "prefetch": ""], nothing) == nothing)
        #expect(LayerFetching(labels: ["background_merge": "false"], standard: LayerFetching()) == LayerFetching())
    }
}
