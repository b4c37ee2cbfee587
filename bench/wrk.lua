-- wrk's side: rotates the keys of a file over its connections and reports as one JSON line.
local requests, at = {}, 0

function init(args)
    for token in io.lines(args[1]) do
        local headers = { ["Authorization"] = "Bearer " .. token }
        for name, value in pairs(wrk.headers) do
            headers[name] = value
        end
        requests[#requests + 1] = wrk.format("GET", nil, headers)
    end
end

function request()
    at = at % #requests + 1
    return requests[at]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "bad_status": %d, "broken": %d}\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
