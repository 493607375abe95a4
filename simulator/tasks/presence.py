class Presence: name="presence"
