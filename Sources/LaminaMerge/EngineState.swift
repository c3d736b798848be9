import LaminaStore
import LaminaSystem
import Synchronization

/// What the engine's threads share; touched with its monitor's lock held only.
struct EngineState {
    var active: [ContentID: ActiveContent] = [:]
    /// What readers ask for.
    var requests = FIFO<Request>()
    /// Fetches that readers wait for.
    var jobs = FIFO<FetchJob>()
    /// Work that nobody waits for.
    var producers: [any Producer] = []
    /// Contents that were merged a moment ago: rows that were read from the index before may not know it yet.
    /// Its clock, read before the rows, tells which those are.
    var recentlyMerged = Recent<ContentID>(limit: 16384)
    /// Contents that are being put right: in place, and each by itself (`MergeEngine+Heal.swift`).
    var healing: Set<ContentID> = []
    /// See `ReadAhead`.
    var readAheads: [LayerID: ReadAhead] = [:]
    var marks: [ContentID: LayerID] = [:]
    /// Layers whose next window is to be fetched.
    var ahead = FIFO<LayerID>()
    var backgroundRunning = 0
    var backgroundLimit = 1
    /// Fetches for readers that are running, and when the last of them ended.
    var urgentRunning = 0
    var lastUrgent: ContinuousClock.Instant?
    var isStopping = false

    /// What a fetcher is to do next; nil: nothing now.
    mutating func nextWork() -> Work? {
        if isStopping { return .end }
        if let job = jobs.pop() { return .fetch(job) }
        while let request = requests.pop() {
            // In `early` at once, where it can be found by whoever leaves or stops.
            if let content = active[request.content] {
                content.early.append(request)
                if content.isPrepared { return .assign(content) }
            } else {
                let content = ActiveContent(id: request.content)
                content.early.append(request)
                active[content.id] = content
                return .prepare(content)
            }
        }
        if let layer = ahead.pop() { return .readAhead(layer) }
        guard backgroundRunning < backgroundLimit,
            let index = producers.firstIndex(where: { !$0.isProducing && !$0.isHeld })
        else { return nil }
        // Round robin: the next fetcher asks another one.
        let producer = producers.remove(at: index)
        producers.append(producer)
        producer.isProducing = true
        backgroundRunning += 1
        return .produce(producer)
    }

    enum Work {
        case fetch(FetchJob)
        /// Find out what there is of a content that somebody asks for.
        case prepare(ActiveContent)
        /// Make jobs of what was asked of it meanwhile.
        case assign(ActiveContent)
        /// Fetch what readers of small files will ask for next.
        case readAhead(LayerID)
        case produce(any Producer)
        case end
    }

    /// What is known of a content, and the layer that is to be fetched on, where this open says that readers go on.
    mutating func knowledge(of content: ContentID) -> (MergeEngine.Knowledge, LayerID?) {
        let marked = takeMark(content)
        guard let active = active[content] else { return (.none, marked) }
        return (active.isMerged ? .merged : .merging, marked)
    }

    /// Takes everything that waits, for the end.
    mutating func stop() -> [MergeCompletion] {
        isStopping = true
        var completions = requests.drain().map(\.completion)
        for content in active.values {
            completions += content.early.map(\.completion)
            completions += content.waiters.map(\.completion)
            content.early = []
            content.waiters = []
        }
        for producer in producers { completions += producer.stop() }
        producers = []
        jobs = FIFO()
        ahead = FIFO()
        return completions
    }

    /// Forgets contents that the index has recorded, as merged or as far as anybody wanted.
    ///
    /// - Returns: whether none is left.
    mutating func forget(_ landing: Landing) -> Bool {
        for (content, _) in landing.merged {
            active[content]?.lease.withLock { $0?.recorded() }
            active[content] = nil
            recentlyMerged.insert(content)
        }
        for (content, _) in landing.chunks {
            guard let known = active[content] else { continue }
            known.unrecorded -= 1
            forgetIfIdle(known)
        }
        return active.isEmpty
    }

    /// Forgets a content that nobody waits for and of which nothing is on its way: the index knows as much.
    mutating func forgetIfIdle(_ content: ActiveContent) {
        guard content.isPrepared, content.missing > 0, content.early.isEmpty, content.waiters.isEmpty,
            content.background == nil, content.unrecorded == 0, active[content.id] === content,
            !content.states.contains(.inFlight)
        else { return }
        active[content.id] = nil
    }
}

/// Makes background jobs, one after the other.
protocol Producer: AnyObject, Sendable {
    /// Whether a fetcher is just asking it; with the engine's lock.
    var isProducing: Bool { get set }
    /// Whether it is not to be asked just now; with the engine's lock.
    var isHeld: Bool { get }
    /// The next job, nil when there is none any more. Called by one fetcher at a time, without the lock.
    func next(_ engine: MergeEngine) throws -> FetchJob?
    /// Ends it; with the lock. The completions of who waits for all of it.
    func stop() -> [MergeCompletion]
    /// Takes back what it still waits for, if it ends before it has asked for everything; with the lock. The completions.
    func withdraw(_ state: inout EngineState) -> [MergeCompletion]
    /// It has no more jobs, or failed; without the lock.
    func ended(_ error: MergeError?)
}

extension Producer {
    var isHeld: Bool { false }
}

/// A queue in the order of arrival.
struct FIFO<Element> {
    private var elements: [Element?] = []
    private var head = 0

    var isEmpty: Bool { head == elements.count }
    var count: Int { elements.count - head }

    mutating func append(_ element: Element) { elements.append(element) }

    mutating func pop() -> Element? {
        guard head < elements.count else { return nil }
        let element = elements[head]
        elements[head] = nil
        head += 1
        if head > 64, head * 2 > elements.count {
            elements.removeFirst(head)
            head = 0
        }
        return element
    }

    /// Removes the first element that `matches`; says whether there was one.
    mutating func removeFirst(where matches: (Element) -> Bool) -> Bool {
        for index in head..<elements.count {
            guard let element = elements[index], matches(element) else { continue }
            elements.remove(at: index)
            return true
        }
        return false
    }

    mutating func drain() -> [Element] {
        defer {
            elements = []
            head = 0
        }
        return elements[head...].compactMap { $0 }
    }
}

/// The last so many elements that were put in, and when.
struct Recent<Element: Hashable> {
    private let limit: Int
    private var members: [Element: UInt64] = [:]
    private var order = FIFO<Element>()
    /// Counts what was put in.
    private(set) var clock: UInt64 = 0

    init(limit: Int) { self.limit = limit }

    /// Whether an element was put in after the clock stood at `time`.
    func contains(_ element: Element, since time: UInt64) -> Bool { members[element].map { $0 > time } ?? false }

    mutating func insert(_ element: Element) {
        clock += 1
        guard members.updateValue(clock, forKey: element) == nil else { return }
        order.append(element)
        if members.count > limit, let oldest = order.pop() { members[oldest] = nil }
    }
}
