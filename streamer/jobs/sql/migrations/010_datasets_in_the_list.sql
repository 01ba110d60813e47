-- The dataset of an export, as the JSON of its request has it. It is found as text, because JSON that is damaged or of a
-- newer version must not fail here. page.sql has the same expression.
CREATE INDEX exports_by_dataset ON streamer.exports
    ((substring(spec FROM '"dataset":("(?:[^"\\]|\\.)*")')), created_at, id);
