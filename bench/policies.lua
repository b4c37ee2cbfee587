-- The same policies as Postern's, in lean Lua for nginx: key auth, ACL, two windows, headers, metrics.
-- Law: nothing is done per request that could be done once; nothing is left out that Postern does.

local M = {}

local hmac_sha1, now, floor = ngx.hmac_sha1, ngx.now, math.floor
local find, sub, byte = string.find, string.sub, string.byte
local keys, salt, minute_limit, hour_limit, policy_line
local allowed = { contentUser = true, contentAdmin = true }
local counts = ngx.shared.counts
local requests, buckets = {}, {}
local bounds = { 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60 }

function M.load(path, key, per_minute, per_hour)
    keys, salt, minute_limit, hour_limit = {}, key, per_minute, per_hour
    policy_line = '"minute";q=' .. per_minute .. ';w=60, "hour";q=' .. per_hour .. ';w=3600'
    for line in io.lines(path) do
        local public, digest, consumer, group = line:match("^(%S+) (%S+) (%S+) (%S+)$")
        local raw = digest:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
        keys[public] = { digest = raw, consumer = consumer, id = "id-" .. consumer, groups = { group }, list = group }
    end
end

local function refuse(status, text)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    if status == 401 then ngx.header["WWW-Authenticate"] = "Bearer" end
    ngx.print('{"error": "', text, '", "status_code": ', status, ', "request_id": "', ngx.var.request_id, '"}')
    return ngx.exit(status)
end

-- Equal length is given by the hash; every byte is looked at.
local function same(a, b)
    local difference = 0
    for i = 1, 20 do
        difference = bit.bor(difference, bit.bxor(byte(a, i), byte(b, i)))
    end
    return difference == 0
end

function M.check()
    local var = ngx.var
    local header = var.http_authorization
    if not header then return refuse(401, "Missing authorization header") end
    if sub(header, 1, 7) ~= "Bearer " then
        return refuse(401, "Authorization header must use the Bearer scheme")
    end
    local dot = find(header, ".", 8, true)
    if not dot then return refuse(401, "Authorization token must be provided as <public>.<secret>") end
    local public = sub(header, 8, dot - 1)
    local key = keys[public]
    if not key or not same(hmac_sha1(salt, sub(header, dot + 1)), key.digest) then
        return refuse(401, "Invalid API token")
    end
    local groups, admitted = key.groups, false
    for i = 1, #groups do
        if allowed[groups[i]] then admitted = true break end
    end
    if not admitted then return refuse(403, "You cannot consume this service") end

    local time = now()
    local minute, hour = floor(time / 60), floor(time / 3600)
    local minute_key, hour_key = public .. ":m:" .. minute, public .. ":h:" .. hour
    local in_minute, in_hour = counts:get(minute_key) or 0, counts:get(hour_key) or 0
    local minute_reset, hour_reset = 60 - floor(time % 60), 3600 - floor(time % 3600)
    if in_minute >= minute_limit or in_hour >= hour_limit then
        ngx.header["Retry-After"] = in_hour >= hour_limit and hour_reset or minute_reset
        return refuse(429, "API rate limit exceeded")
    end
    in_minute = counts:incr(minute_key, 1, 0, 120)
    in_hour = counts:incr(hour_key, 1, 0, 7200)

    local ctx = ngx.ctx
    local minute_left, hour_left = minute_limit - in_minute, hour_limit - in_hour
    if minute_left <= hour_left then
        ctx.limit, ctx.left, ctx.reset, ctx.window = minute_limit, minute_left, minute_reset, "minute"
    else
        ctx.limit, ctx.left, ctx.reset, ctx.window = hour_limit, hour_left, hour_reset, "hour"
    end
    var.consumer_id = key.id
    var.consumer_username = key.consumer
    var.consumer_groups = key.list
    var.credential = public
end

function M.head()
    local ctx = ngx.ctx
    if not ctx.limit then return end
    local header = ngx.header
    header["RateLimit-Limit"] = ctx.limit
    header["RateLimit-Remaining"] = ctx.left
    header["RateLimit-Reset"] = ctx.reset
    header["RateLimit-Policy"] = policy_line
    header["RateLimit"] = '"' .. ctx.window .. '";r=' .. ctx.left .. ";t=" .. ctx.reset
    header["X-Request-ID"] = ngx.var.request_id
end

function M.count()
    local status = ngx.status
    requests[status] = (requests[status] or 0) + 1
    local seconds = now() - ngx.req.start_time()
    for i = 1, #bounds do
        if seconds <= bounds[i] then
            buckets[i] = (buckets[i] or 0) + 1
            return
        end
    end
end

function M.metrics()
    for status, number in pairs(requests) do
        ngx.say('http_requests_total{code="', status, '"} ', number)
    end
    local total = 0
    for i = 1, #bounds do
        total = total + (buckets[i] or 0)
        ngx.say('request_duration_seconds_bucket{le="', bounds[i], '"} ', total)
    end
end

return M
