-- What an unfinished export waits for, beside its turn: the source, which is away, locked, or being changed.
ALTER TABLE streamer.exports ADD COLUMN waiting_for text;
