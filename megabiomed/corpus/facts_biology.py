"""Statements of biology and medicine that hold in any textbook, as rows that sentences are made of."""

from __future__ import annotations

from typing import NamedTuple


class AminoAcid(NamedTuple):
    """name, one- and three-letter code, residue class, codons of the standard genetic code."""

    name: str
    one: str
    three: str
    kind: str
    codons: tuple[str, ...]


_AMINO_ACIDS = """
alanine|A|Ala|a nonpolar|GCU GCC GCA GCG
arginine|R|Arg|a positively charged|CGU CGC CGA CGG AGA AGG
asparagine|N|Asn|an uncharged polar|AAU AAC
aspartic acid|D|Asp|a negatively charged|GAU GAC
cysteine|C|Cys|a sulfur-containing|UGU UGC
glutamine|Q|Gln|an uncharged polar|CAA CAG
glutamic acid|E|Glu|a negatively charged|GAA GAG
glycine|G|Gly|a nonpolar|GGU GGC GGA GGG
histidine|H|His|an aromatic imidazole|CAU CAC
isoleucine|I|Ile|a nonpolar|AUU AUC AUA
leucine|L|Leu|a nonpolar|UUA UUG CUU CUC CUA CUG
lysine|K|Lys|a positively charged|AAA AAG
methionine|M|Met|a sulfur-containing|AUG
phenylalanine|F|Phe|an aromatic|UUU UUC
proline|P|Pro|a cyclic|CCU CCC CCA CCG
serine|S|Ser|a hydroxyl-bearing|UCU UCC UCA UCG AGU AGC
threonine|T|Thr|a hydroxyl-bearing|ACU ACC ACA ACG
tryptophan|W|Trp|an aromatic|UGG
tyrosine|Y|Tyr|an aromatic|UAU UAC
valine|V|Val|a nonpolar|GUU GUC GUA GUG
""".strip()

AMINO_ACIDS: tuple[AminoAcid, ...] = tuple(
    AminoAcid(name, one, three, kind, tuple(codons.split()))
    for name, one, three, kind, codons in (row.split("|") for row in _AMINO_ACIDS.splitlines())
)


def _table(rows: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(part.strip() for part in row.split("|")) for row in rows.strip().splitlines())


# vitamin, chemical name, disease of deficiency
VITAMINS = _table("""
vitamin A|retinol|night blindness
vitamin B1|thiamine|beriberi
vitamin B3|niacin|pellagra
vitamin B9|folate|megaloblastic anaemia
vitamin B12|cobalamin|megaloblastic anaemia
vitamin C|ascorbic acid|scurvy
vitamin D|calciferol|rickets in children
vitamin K|phylloquinone|impaired blood clotting
""")

# hormone, gland, effect
HORMONES = _table("""
insulin|the beta cells of the pancreas|lowers blood glucose
glucagon|the alpha cells of the pancreas|raises blood glucose
thyroxine|the thyroid gland|raises the metabolic rate
parathyroid hormone|the parathyroid glands|raises the calcium concentration of the blood
calcitonin|the C cells of the thyroid gland|lowers the calcium concentration of the blood
aldosterone|the adrenal cortex|promotes the reabsorption of sodium in the kidney
cortisol|the adrenal cortex|promotes gluconeogenesis
adrenaline|the adrenal medulla|raises heart rate
growth hormone|the anterior pituitary|stimulates growth
prolactin|the anterior pituitary|stimulates milk production
vasopressin|the posterior pituitary|promotes the reabsorption of water in the kidney
oxytocin|the posterior pituitary|causes contraction of the uterus
melatonin|the pineal gland|regulates the sleep-wake cycle
erythropoietin|the kidney|stimulates the formation of red blood cells
leptin|adipose tissue|reduces appetite
gastrin|the stomach|stimulates the secretion of gastric acid
secretin|the duodenum|stimulates the secretion of bicarbonate by the pancreas
""")

# enzyme, substrate, reaction
ENZYMES = _table("""
amylase|starch|hydrolyses alpha-1,4-glycosidic bonds
pepsin|proteins in the stomach|hydrolyses peptide bonds at acidic pH
trypsin|proteins in the small intestine|cleaves peptide bonds after lysine and arginine
lactase|lactose|splits it into glucose and galactose
hexokinase|glucose|transfers a phosphate group from ATP to it
catalase|hydrogen peroxide|decomposes it to water and oxygen
carbonic anhydrase|carbon dioxide|hydrates it to carbonic acid
acetylcholinesterase|acetylcholine|hydrolyses it to choline and acetate
DNA polymerase|deoxynucleoside triphosphates|adds nucleotides to the 3' end of a strand
reverse transcriptase|RNA templates|synthesises DNA from RNA
lysozyme|bacterial peptidoglycan|hydrolyses the bacterial cell wall
urease|urea|hydrolyses it to ammonia and carbon dioxide
lactate dehydrogenase|pyruvate|reduces it to lactate
HMG-CoA reductase|HMG-CoA|reduces it to mevalonate
xanthine oxidase|xanthine|oxidises it to uric acid
ATP synthase|ADP|phosphorylates it to ATP with the energy of a proton gradient
""")

# disease, kind of pathogen, pathogen
INFECTIONS = _table("""
tuberculosis|bacterium|Mycobacterium tuberculosis
cholera|bacterium|Vibrio cholerae
plague|bacterium|Yersinia pestis
syphilis|bacterium|Treponema pallidum
leprosy|bacterium|Mycobacterium leprae
diphtheria|bacterium|Corynebacterium diphtheriae
whooping cough|bacterium|Bordetella pertussis
tetanus|bacterium|Clostridium tetani
anthrax|bacterium|Bacillus anthracis
typhoid fever|bacterium|Salmonella enterica serovar Typhi
Lyme disease|bacterium|Borrelia burgdorferi
gonorrhoea|bacterium|Neisseria gonorrhoeae
malignant tertian malaria|protozoan|Plasmodium falciparum
African sleeping sickness|protozoan|Trypanosoma brucei
Chagas disease|protozoan|Trypanosoma cruzi
toxoplasmosis|protozoan|Toxoplasma gondii
AIDS|virus|human immunodeficiency virus
measles|virus|measles virus
COVID-19|virus|SARS-CoV-2
chickenpox|virus|varicella-zoster virus
infectious mononucleosis|virus|Epstein-Barr virus
schistosomiasis|flatworm|Schistosoma
""")

# organ, system, function
ORGANS = _table("""
heart|cardiovascular system|pumps blood through the body
lung|respiratory system|exchanges oxygen and carbon dioxide
kidney|urinary system|filters the blood and produces urine
liver|digestive system|produces bile and detoxifies many substances
pancreas|digestive system|secretes digestive enzymes and insulin
stomach|digestive system|begins the digestion of proteins
small intestine|digestive system|absorbs most nutrients
large intestine|digestive system|absorbs water and forms faeces
spleen|lymphatic system|removes old red blood cells
thymus|lymphatic system|is the place where T cells mature
bone marrow|skeletal system|produces blood cells
cerebellum|nervous system|coordinates movement
hippocampus|nervous system|is needed to form new memories
hypothalamus|nervous system|controls body temperature and the pituitary gland
retina|visual system|converts light into nerve signals
cochlea|auditory system|converts sound into nerve signals
skin|integumentary system|protects the body against injury and loss of water
bladder|urinary system|stores urine
""")

# gene or protein, consequence of its defect
GENETICS = _table("""
CFTR|cystic fibrosis|autosomal recessive
HBB|sickle cell disease|autosomal recessive
HTT|Huntington disease|autosomal dominant
DMD|Duchenne muscular dystrophy|X-linked recessive
F8|haemophilia A|X-linked recessive
F9|haemophilia B|X-linked recessive
PAH|phenylketonuria|autosomal recessive
HEXA|Tay-Sachs disease|autosomal recessive
FBN1|Marfan syndrome|autosomal dominant
LDLR|familial hypercholesterolaemia|autosomal dominant
GBA1|Gaucher disease|autosomal recessive
ATP7B|Wilson disease|autosomal recessive
""")

# element, where the body needs it
MINERALS = _table("""
iron|haemoglobin, which carries oxygen
iodine|the thyroid hormones
calcium|bone and the contraction of muscle
zinc|carbonic anhydrase
cobalt|vitamin B12
magnesium|the binding of ATP by kinases
sodium|the action potential of nerves
potassium|the resting potential of cells
selenium|glutathione peroxidase
phosphorus|DNA and ATP
copper|cytochrome c oxidase
molybdenum|xanthine oxidase
""")
